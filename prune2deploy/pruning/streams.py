"""The hidden states of the dense and the pruned model side by side, one layer at a time.

Each block's statistics come from the inputs that the already pruned and recovered prefix gives it, and aim at what the
dense model has in the residual stream behind that block: errors of earlier blocks are made good by later ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.family import KINDS, Block, Kind
from prune2deploy.models.layer_call import LayerCall, capture
from prune2deploy.models.registry import family_of, layers_of, output_projection
from prune2deploy.models.surgery import columns_of
from prune2deploy.tasks.base import Batch, Samples

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BATCH = 32
TOKENS = 65_536  # that least squares are solved over; more changed nothing measurable and would not fit into memory


@dataclass
class BlockStatistics:
    """Sums over the valid tokens, float64. x: [k] inputs of the kept columns; y: [d] what the block should put out."""

    n: int
    x_sum: np.ndarray  # [k]
    y_sum: np.ndarray  # [d]
    xx: np.ndarray  # [k, k], Σ x xᵀ
    xy: np.ndarray  # [k, d], Σ x yᵀ

    def centred(self) -> "tuple[np.ndarray, np.ndarray]":
        """(Σ (x − x̄)(x − x̄)ᵀ, Σ (x − x̄)(y − ȳ)ᵀ), each over n."""
        x, y = self.x_sum / self.n, self.y_sum / self.n
        return self.xx / self.n - np.outer(x, x), self.xy / self.n - np.outer(x, y)


class _Reached(Exception):  # noqa: N818 (a signal, not an error)
    pass


class Streams:
    """Walks two models of one family through their layers over the same samples."""

    def __init__(self, dense: "PreTrainedModel", pruned: "PreTrainedModel", samples: Samples, tokens: int = TOKENS):
        """`dense` is aimed at; `pruned` is masked, with the dense model's shapes, and may change as the walk goes on."""
        import torch

        self.dense, self.pruned = dense, pruned
        self.layer = -1
        self.calls: list[LayerCall] = []
        self.valid: list[torch.Tensor] = []
        for batch in _within(dense, samples, tokens):
            call = capture(dense, batch.tensors())
            self.calls.append(call)
            full = torch.ones(call.hidden.shape[:2], dtype=torch.bool)
            self.valid.append(full if batch.valid is None else torch.from_numpy(batch.valid))
        self.pruned_hidden = [call.hidden for call in self.calls]
        self.targets: dict[Kind, list[torch.Tensor]] = {}

    def enter(self, layer: int) -> None:
        """Go on to `layer`: run the dense model's, and the pruned model's last one as it is now."""
        import torch

        with torch.no_grad():
            if self.layer >= 0:
                past = layers_of(self.pruned)[self.layer]
                self.pruned_hidden = [
                    call.run(past, hidden) for call, hidden in zip(self.calls, self.pruned_hidden, strict=True)
                ]
            self.layer = layer
            self.targets = {kind: [] for kind in KINDS}
            module = layers_of(self.dense)[layer]
            for call in self.calls:
                with self._watched(self.dense, module) as seen:
                    call.hidden = call.run(module, call.hidden)
                for kind in KINDS:
                    self.targets[kind].append(seen[kind, "entry"] + seen[kind, "output"])

    def statistics(self, block: Block, kept: list[int], first_token_only: bool = False) -> BlockStatistics:
        """Statistics of `block`, which is in the layer entered last, for the columns of its `kept` units.

        The target is what the dense model has behind the block minus what the pruned one has before it.
        """
        import torch

        columns = columns_of(kept, block.unit_size)
        width = output_projection(self.dense, block).out_features
        k = len(columns)
        sums = BlockStatistics(0, np.zeros(k), np.zeros(width), np.zeros((k, k)), np.zeros((k, width)))
        module = layers_of(self.pruned)[block.layer]
        rows = zip(self.calls, self.pruned_hidden, self.targets[block.kind], self.valid, strict=True)
        for call, hidden, target, valid in rows:
            watched = self._watched(self.pruned, module, until=block.kind)
            with torch.no_grad(), watched as seen, suppress(_Reached):
                call.run(module, hidden)
            if first_token_only:
                valid = valid & (torch.arange(valid.shape[1]) == 0)
            x = seen[block.kind, "input"][valid][:, columns]
            y = (target - seen[block.kind, "entry"])[valid]
            sums.n += len(x)
            sums.x_sum += x.double().sum(0).numpy()
            sums.y_sum += y.double().sum(0).numpy()
            sums.xx += (x.T @ x).numpy()
            sums.xy += (x.T @ y).numpy()
        return sums

    @contextmanager
    def _watched(
        self, model: "PreTrainedModel", layer: "nn.Module", until: Kind | None = None
    ) -> "Iterator[dict[tuple[Kind, str], torch.Tensor]]":
        """What runs through the blocks of `layer`; stops at the output projection of `until`."""
        seen: dict[tuple[Kind, str], torch.Tensor] = {}

        def entering(kind: Kind) -> Callable[..., None]:
            def hook(module: "nn.Module", args: tuple, kwargs: dict) -> None:
                seen[kind, "entry"] = args[0] if args else kwargs["hidden_states"]

            return hook

        def projecting(kind: Kind) -> Callable[..., None]:
            def hook(module: "nn.Module", args: tuple) -> None:
                seen[kind, "input"] = args[0]
                if kind == until:
                    raise _Reached

            return hook

        def projected(kind: Kind) -> Callable[..., None]:
            def hook(module: "nn.Module", args: tuple, output: "torch.Tensor") -> None:
                seen[kind, "output"] = output

            return hook

        handles = []
        for kind, branch in family_of(model.config).branches.items():
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
        return np.full(len(samples), capture(model, samples.batch([0]).tensors()).hidden.shape[1])
    return np.asarray(known)


def _within(model: "PreTrainedModel", samples: Samples, tokens: int) -> Iterator[Batch]:
    """Batches of `samples`, evenly thinned out where they have more than `tokens` tokens in all."""
    total = int(lengths_of(model, samples).sum())
    if total > tokens:
        count = max(1, len(samples) * tokens // total)
        samples = samples.select(np.unique(np.linspace(0, len(samples) - 1, count).astype(int)).tolist())
    for _, batch in samples.batches(BATCH):
        yield batch


class Reconstruction:
    """How far the pruned model's last layer is from the dense model's, on a fixed set of samples."""

    def __init__(self, dense: "PreTrainedModel", samples: Samples):
        self.samples = samples
        self.dense = self._last_layer(dense)

    def error(self, pruned: "PreTrainedModel") -> float:
        """Squared error of the last layer's output relative to the variance of the dense model's."""
        wanted, got = self.dense, self._last_layer(pruned)
        return float((got - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())

    def _last_layer(self, model: "PreTrainedModel") -> "torch.Tensor":
        import torch

        found: list[torch.Tensor] = []
        handle = layers_of(model)[-1].register_forward_hook(lambda module, args, output: found.append(output))
        rows = []
        try:
            for _, batch in self.samples.batches(BATCH):
                with torch.no_grad():
                    model(**batch.tensors())
                hidden = found.pop()
                rows.append(hidden.flatten(0, 1) if batch.valid is None else hidden[torch.from_numpy(batch.valid)])
        finally:
            handle.remove()
        return torch.cat(rows).double()
