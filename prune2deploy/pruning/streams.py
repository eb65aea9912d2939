"""The hidden states of the dense and the pruned model side by side, one layer at a time.

Each block's statistics come from the inputs that the already pruned and recovered prefix gives it, and aim at what the
dense model has in the residual stream behind that block: errors of earlier blocks are made good by later ones.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.memory import Store, give_back, store
from prune2deploy.models.family import KINDS, Block, Kind
from prune2deploy.models.layer_call import LayerCall, answering, capture
from prune2deploy.models.registry import blocks_of, family_of, layers_of, output_projection
from prune2deploy.models.surgery import columns_of, shrunk_layer, unmasked
from prune2deploy.pruning.linear_algebra import add_square_, mirror_
from prune2deploy.tasks.base import Samples, grouped

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BATCH = 32
BATCH_TOKENS = 4096
ROUNDING = 1e-6  # of the mean square: variance that products in float32 make of constants
PARTIAL = 8  # batches whose products are added up in float32: adding to float64 takes as long as the product itself
NUMBERS = 65_536 * 384  # in one stream of hidden states, 100 MB on disk: what least squares are solved over


@dataclass
class BlockStatistics:
    """Weighted sums over the valid tokens. x: [k] inputs of the kept columns; y: [d] what the block should put out."""

    n: float  # Σ of the weights
    x_sum: "torch.Tensor"  # [k]
    y_sum: "torch.Tensor"  # [d]
    xx: "torch.Tensor"  # [k, k], Σ x xᵀ
    xy: "torch.Tensor"  # [k, d], Σ x yᵀ

    @classmethod
    def none(cls, k: int, d: int, device: "torch.device") -> "BlockStatistics":
        """Of no tokens."""
        import torch

        shapes = ((k,), (d,), (k, k), (k, d))
        return cls(0.0, *(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def of(self, columns: "torch.Tensor") -> "BlockStatistics":
        """The same of some of the columns."""
        return BlockStatistics(
            self.n, self.x_sum[columns], self.y_sum, self.xx[columns[:, None], columns], self.xy[columns]
        )

    def centred(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """(Σ (x − x̄)(x − x̄)ᵀ, Σ (x − x̄)(y − ȳ)ᵀ), each over n; zero where nothing but rounding is left of x."""
        x, y = self.x_sum / self.n, self.y_sum / self.n
        xx, xy = self.xx / self.n, self.xy / self.n
        rounding = ROUNDING * float(xx.trace())
        xx.addr_(x, x, alpha=-1)
        xy.addr_(x, y, alpha=-1)
        if float(xx.trace()) <= rounding:
            return xx.zero_(), xy.zero_()
        return xx, xy


class _Reached(Exception):  # noqa: N818 (a signal, not an error)
    pass


class Streams:
    """Walks two models of one family through their layers over the same samples."""

    def __init__(
        self, dense: "PreTrainedModel", pruned: "PreTrainedModel", samples: Samples,
        weights: Sequence[np.ndarray] | None = None,
    ):
        """`dense` is aimed at; `pruned` is masked, with the dense model's shapes, and may change as the walk goes on.

        Args:
            dense: left as it is.
            pruned: see above.
            samples: evenly thinned out where a stream of them has more than `NUMBERS` numbers.
            weights: per sample [blocks, tokens], what each token counts in the statistics; None: all the same.
        """
        import torch

        self.dense, self.pruned = dense, pruned
        self.layer = -1
        self.calls: list[LayerCall] = []
        self.indices: list[list[int]] = []  # per batch, of its samples
        self.valid: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []  # per batch [blocks, valid tokens]
        self.rows = {block: row for row, block in enumerate(blocks_of(dense))}
        self.dense_hidden, self.pruned_hidden = store(dense.device), store(dense.device)
        self.targets: dict[Kind, Store] = {}
        self.attended: Store | None = None  # what the pruned layer's attention puts out, once that has its final weights
        taken = thinned(dense, samples, NUMBERS // family_of(dense.config).signature(dense.config).hidden_size)
        some = samples.select(taken)
        for indices in grouped(some.order(), lengths_of(dense, some).tolist(), BATCH, BATCH_TOKENS):
            batch = some.batch(indices)
            call = capture(dense, batch.tensors(dense.device))
            self.calls.append(LayerCall(torch.empty(0), call.args, call.kwargs))
            for hidden in (self.dense_hidden, self.pruned_hidden):
                hidden.append(call.hidden)
            self.indices.append([taken[index] for index in indices])
            self.valid.append(batch.counted(call.hidden))
            if weights is None:
                counts = torch.ones(len(self.rows), int(self.valid[-1].sum()))
            else:
                counts = torch.from_numpy(np.concatenate([weights[index] for index in self.indices[-1]], axis=1))
            self.weights.append(counts.to(dense.device))

    def enter(self, layer: int) -> None:
        """Go on to `layer`: run the dense model's, and the pruned model's last one as it is now."""
        import torch

        with torch.no_grad():
            if self.layer >= 0:
                past = self._without_masked()
                for batch, call in enumerate(self.calls):
                    with self._attention_answered(past, batch):
                        self.pruned_hidden[batch] = call.run(past, self.pruned_hidden[batch])
            self.attended = None
            give_back()
            self.layer = layer
            self.targets = {kind: store(self.dense.device) for kind in KINDS}
            module = layers_of(self.dense)[layer]
            for batch, call in enumerate(self.calls):
                with self._watched(module, KINDS) as seen:
                    self.dense_hidden[batch] = call.run(module, self.dense_hidden[batch])
                for kind in KINDS:
                    self.targets[kind].append(seen[kind, "entry"] + seen[kind, "output"])
            give_back()

    def blocks(self) -> Iterator[Block]:
        """Every block in forward order; when one is yielded, the walk has come as far as it.

        The blocks before it must not change any more.
        """
        for block in self.rows:
            if block.layer != self.layer:
                self.enter(block.layer)
            else:
                self._leave_attention()
            yield block
            give_back()

    def _leave_attention(self) -> None:
        """Run the pruned layer's attention a last time."""
        import torch

        found: list[torch.Tensor] = []

        def keep(module: "nn.Module", args: tuple, output: "tuple[torch.Tensor, ...]") -> None:
            found.append(output[0])
            raise _Reached

        layer, attended = self._without_masked(), store(self.dense.device)
        handle = self._attention(layer).register_forward_hook(keep)
        try:
            for batch, call in enumerate(self.calls):
                with suppress(_Reached), torch.no_grad():
                    call.run(layer, self.pruned_hidden[batch])
                attended.append(found.pop())
        finally:
            handle.remove()
        self.attended = attended
        give_back()

    def _without_masked(self) -> "nn.Module":
        """What the pruned layer is without its masked units: the same with fewer products."""
        own = [block for block in self.rows if block.layer == self.layer]
        kept = {block: unmasked(output_projection(self.pruned, block), block) for block in own}
        some = {block: units for block, units in kept.items() if len(units) < block.units}
        return shrunk_layer(family_of(self.dense.config), layers_of(self.pruned)[self.layer], some)

    def _attention(self, layer: "nn.Module") -> "nn.Module":
        return layer.get_submodule(family_of(self.dense.config).attention)

    def _attention_answered(self, layer: "nn.Module", batch: int) -> AbstractContextManager[None]:
        """While open, the attention of `layer` does not run where it is known what it puts out."""
        return answering([self._attention(layer)], (self.attended[batch], None)) if self.attended else nullcontext()

    def statistics(self, block: Block, kept: list[int], first_token_only: bool = False) -> BlockStatistics:
        """Statistics of `block`, which is in the layer entered last, for the columns of its `kept` units.

        The target is what the dense model has behind the block minus what the pruned one has before it.
        """
        import torch

        columns = columns_of(kept, block.unit_size)
        width = output_projection(self.dense, block).out_features
        sums = BlockStatistics.none(len(columns), width, self.dense.device)
        xx, xy = sums.xx.float(), sums.xy.float()
        module = layers_of(self.pruned)[block.layer]
        for batch, valid in enumerate(self.valid):
            with torch.no_grad():
                seen = self.through(module, block, batch, stop_before_output=True)
            counted, weight = valid, self.weights[batch][self.rows[block]]
            if first_token_only:
                counted = valid & (torch.arange(valid.shape[1], device=valid.device) == 0)
                weight = weight[counted[valid]]
            x = seen.pop("input")[counted]
            if len(kept) < block.units:
                x = x[:, columns]
            y = (self.targets[block.kind][batch] - seen["entry"])[counted]
            root = weight.sqrt()  # on both sides of a product; in place, as each is a copy already
            x.mul_(root[:, None])
            y.mul_(root[:, None])
            sums.n += float(weight.sum(dtype=torch.float64))
            sums.x_sum += root @ x
            sums.y_sum += root @ y
            add_square_(xx, x)
            xy.addmm_(x.T, y)
            if (batch + 1) % PARTIAL == 0 or batch + 1 == len(self.valid):
                for total, partial in ((sums.xx, xx), (sums.xy, xy)):
                    total += partial
                    partial.zero_()
        mirror_(sums.xx)
        give_back()
        return sums

    def through(
        self, layer: "nn.Module", block: Block, batch: int, stop_before_output: bool = False
    ) -> "dict[str, torch.Tensor]":
        """Run the pruned model's hidden states of `batch` through `layer` up to the output projection of `block`.

        `layer` is the pruned model's or stands for it. Returns "entry", the residual stream before the block, "input"
        of the output projection, and its "output" unless that is not wanted.
        """
        answered, watched = self._attention_answered(layer, batch), self._watched(layer, [block.kind], stop_before_output)
        with answered, watched as seen, suppress(_Reached):
            self.calls[batch].run(layer, self.pruned_hidden[batch])
        return {name: tensor for (_, name), tensor in seen.items()}

    @contextmanager
    def _watched(
        self, layer: "nn.Module", kinds: Sequence[Kind], stop_before_output: bool = False
    ) -> "Iterator[dict[tuple[Kind, str], torch.Tensor]]":
        """What runs through the blocks of `layer`; with a single kind, stops once that is known."""
        seen: dict[tuple[Kind, str], torch.Tensor] = {}

        def entering(kind: Kind) -> Callable[..., None]:
            def hook(module: "nn.Module", args: tuple, kwargs: dict) -> None:
                seen[kind, "entry"] = args[0] if args else kwargs["hidden_states"]

            return hook

        def projecting(kind: Kind) -> Callable[..., None]:
            def hook(module: "nn.Module", args: tuple) -> None:
                seen[kind, "input"] = args[0]
                if stop_before_output:
                    raise _Reached

            return hook

        def projected(kind: Kind) -> Callable[..., None]:
            def hook(module: "nn.Module", args: tuple, output: "torch.Tensor") -> None:
                seen[kind, "output"] = output
                if len(kinds) == 1:
                    raise _Reached

            return hook

        handles = []
        for kind in kinds:
            branch = family_of(self.dense.config).branches[kind]
            consumer = layer.get_submodule(branch.consumer)
            handles.append(layer.get_submodule(branch.entry).register_forward_pre_hook(entering(kind), with_kwargs=True))
            handles.append(consumer.register_forward_pre_hook(projecting(kind)))
            handles.append(consumer.register_forward_hook(projected(kind)))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def lengths_of(model: "PreTrainedModel", samples: Samples) -> np.ndarray:
    """Positions of the residual stream that each sample fills, [n]."""
    known = [samples.tokens(index) for index in range(len(samples))]
    if known[0] is None:
        return np.full(len(samples), capture(model, samples.batch([0]).tensors(model.device)).hidden.shape[1])
    return np.asarray(known)


def thinned(model: "PreTrainedModel", samples: Samples, tokens: int) -> list[int]:
    """Indices of `samples`, evenly thinned out where they have more than `tokens` tokens in all."""
    total = int(lengths_of(model, samples).sum())
    count = len(samples) if total <= tokens else max(1, len(samples) * tokens // total)
    return np.unique(np.linspace(0, len(samples) - 1, count).astype(int)).tolist()


class Reconstruction:
    """How far the pruned model's last layer is from the dense model's, on a fixed set of samples."""

    def __init__(self, dense: "PreTrainedModel", samples: Samples):
        import torch

        self.samples = samples
        self.dense = list(self._last_layer(dense))
        tokens = torch.cat(self.dense)
        mean = tokens.mean(0, dtype=torch.float64)
        varies = sum(float((rows - mean).square().sum()) for rows in self.dense)
        self.variance = varies or 1.0  # where all tokens are alike, the error is no share of anything

    def error(self, pruned: "PreTrainedModel") -> float:
        """Squared error of the last layer's output relative to the variance of the dense model's."""
        pairs = zip(self._last_layer(pruned), self.dense, strict=True)
        return sum(float((got - wanted).double().square().sum()) for got, wanted in pairs) / self.variance

    def _last_layer(self, model: "PreTrainedModel") -> "Iterator[torch.Tensor]":
        """What the last layer puts out for the valid tokens of each batch, [tokens, d]."""
        import torch

        found: list[torch.Tensor] = []
        handle = layers_of(model)[-1].register_forward_hook(lambda module, args, output: found.append(output))
        try:
            for _, batch in self.samples.batches(BATCH):
                with torch.no_grad():
                    model(**batch.tensors(model.device))
                hidden = found.pop()
                yield hidden[batch.counted(hidden)]
        finally:
            handle.remove()
