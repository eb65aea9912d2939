"""Two models walked through their layers over the same samples, the dense one and the pruned one.

Each keeps a stream of hidden states, one file for each batch, so that a layer is reached without running those before it
again. What a block of the pruned model should put out is what the dense model has in the residual stream behind that
block: errors of earlier blocks are made good by later ones. Where a block feeds a bottleneck, it is what the dense block
puts out.

A layer that a model runs more than once is walked to once: its samples are those of all its calls in the dense model, as
what comes in at one call depends on what the others have become.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.memory import Store, give_back, store
from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.capture import (
    HandingOn,
    LayerCall,
    Reached,
    answering,
    call_of,
    first_of,
    in_layer,
    instead_of,
    passing,
    visits_of,
)
from prune2deploy.models.family import blocks_of, roots_of
from prune2deploy.models.projection import as_rows, output_projection, rows_in, rows_out
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import shrunk_layer, unmasked
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics, Sums
from prune2deploy.pruning.statistics.lengths import lengths_of, thinned
from prune2deploy.tasks.base import Samples, grouped

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BATCH = 32
BATCH_TOKENS = 4096
NUMBERS = 65_536 * 384  # in one stream of hidden states, 100 MB on disk: what least squares are solved over


@dataclass(frozen=True)
class Stop:
    """A layer on the walk, as one sample showed it."""

    root: str
    calls: int  # in a forward pass
    direct: bool  # whether it is given what the layer before it put out, as it is
    like: int  # the number of the first layer that is called with the very same arguments
    returned: Any  # what it gave back
    hands_on: bool  # whether what it gave back has something else in it for the layers behind


@dataclass
class Part:
    """Some samples on their way. `valid`: [samples, tokens], or None where all count; `shapes`: of each layer's output."""

    indices: list[int]
    inputs: "dict[str, torch.Tensor] | None"
    valid: "torch.Tensor | None"
    shapes: list[tuple[int, ...]] = field(default_factory=list)


@dataclass
class Answered:
    """A module of the pruned layer that has its final weights, and what it put out in every place."""

    path: str
    returned: Any
    outputs: Store


class Streams:
    """Walks two models of one family through their layers over the same samples."""

    def __init__(
        self, dense: "PreTrainedModel", pruned: "PreTrainedModel", samples: Samples,
        weights: Mapping[Block, Sequence[np.ndarray]] | None = None,
    ):
        """`dense` is aimed at; `pruned` is masked, with the dense model's shapes, and may change as the walk goes on.

        Args:
            dense: left as it is.
            pruned: see above.
            samples: evenly thinned out where a stream of them has more than `NUMBERS` numbers.
            weights: per block and sample [calls, tokens], what each token counts in statistics; None: all the same.
        """
        self.dense, self.pruned, self.weights = dense, pruned, weights
        self.blocks_in_order = blocks_of(dense)
        self.stops = stops_of(dense, samples)
        self.again = any(stop.calls > 1 for stop in self.stops)
        self.layer = -1
        self.parts: list[Part] = []
        self.places: list[tuple[int, int]] = []  # (part, call of the layer) of everything that runs through it
        self.calls: list[LayerCall] = []  # of each place
        self.arguments: dict[int, list[LayerCall]] = {}  # by the number of the first layer that has them
        self.dense_hidden, self.pruned_hidden = store(dense.device), store(dense.device)
        self.targets: dict[Block, Store] = {}
        self.answered: list[Answered] = []
        self._start(samples)

    def _start(self, samples: Samples) -> None:
        """Bring all samples to the first layer."""
        numbers = int(signature_of(self.dense.config).fixed["hidden_size"])
        taken = thinned(self.dense, samples, NUMBERS // numbers // max(stop.calls for stop in self.stops))
        some = samples.select(taken)
        come_back = self.again or any(not stop.direct or stop.like for stop in self.stops[1:])
        for indices in grouped(some.order(), lengths_of(self.dense, some).tolist(), BATCH, BATCH_TOKENS):
            batch = some.batch(indices)
            inputs, valid = batch.tensors(self.dense.device), batch.counts()
            if valid is not None:
                valid = valid.to(self.dense.device)
            self.parts.append(Part([taken[index] for index in indices], inputs if come_back else None, valid))
            if not self.again:
                call = call_of(self.dense, self.stops[0].root, inputs)
                self._arrive(call, len(self.parts) - 1, 0)

    def _arrive(self, call: LayerCall, part: int, visit: int) -> None:
        """Add a place, where both models are given the same."""
        import torch

        for hidden in (self.dense_hidden, self.pruned_hidden):
            hidden.append(call.hidden)
        self.places.append((part, visit))
        self.calls.append(LayerCall(torch.empty(0), call.args, call.kwargs))

    def enter(self, layer: int) -> None:
        """Go on to `layer`: run the dense model's, and the pruned model's last one as it is now."""
        import torch

        with torch.no_grad():
            if self.again:
                self._start_again(layer)
            elif self.layer >= 0:
                self._leave()
                self._go_on(layer)
            else:
                self.arguments[0] = self.calls
            self.answered = []
            give_back()
            self.layer = layer
            self._aim()
            give_back()

    def _start_again(self, layer: int) -> None:
        """Take the samples of all calls of `layer` in the dense model."""
        self.places, self.calls = [], []
        self.dense_hidden, self.pruned_hidden = store(self.dense.device), store(self.dense.device)
        for number, part in enumerate(self.parts):
            assert part.inputs is not None
            visits = [visit for visit in visits_of(self.dense, part.inputs) if visit.root == self.stops[layer].root]
            for index, visit in enumerate(visits):
                self._arrive(visit.call, number, index)

    def _leave(self) -> None:
        """Run the pruned layer that the walk has come to a last time."""
        past = self._without_masked()
        for place, call in enumerate(self.calls):
            with self._answering(past, place):
                self.pruned_hidden[place] = call.run(past, self.pruned_hidden[place])

    def _go_on(self, layer: int) -> None:
        """From what the layer before put out to what `layer` is called with."""
        stop = self.stops[layer]
        if stop.direct and stop.like in self.arguments:
            self.calls = self.arguments[stop.like]
            return
        self.calls = []
        for number in range(len(self.parts)):
            call = self._call(self.dense, layer, number, self.dense_hidden[number])
            self.calls.append(LayerCall(call.hidden[:0], call.args, call.kwargs))
            if not stop.direct:
                self.dense_hidden[number] = call.hidden
                self.pruned_hidden[number] = self._call(self.pruned, layer, number, self.pruned_hidden[number]).hidden
        self.arguments[layer] = self.calls

    def _call(self, model: "PreTrainedModel", layer: int, number: int, hidden: "torch.Tensor") -> LayerCall:
        """How `model` calls `layer` for a part, when the layer before puts out `hidden`; no layer is run."""
        part, before = self.parts[number], self.stops[:layer]
        assert part.inputs is not None
        outputs = [hidden.new_zeros(()).expand(shape) for shape in part.shapes[: layer - 1]]
        answers: list[tuple[nn.Module, Any]] = []
        for stop, output in zip(before, [*outputs, hidden], strict=True):
            module = model.get_submodule(stop.root)
            answers.append((module, HandingOn(module, output) if stop.hands_on else instead_of(stop.returned, output)))
        with answering(answers):
            return call_of(model, self.stops[layer].root, part.inputs)

    def _aim(self) -> None:
        """Run the dense layer, and keep what its blocks should put out."""
        layer, own = self.dense.get_submodule(self.stops[self.layer].root), self._own
        self.targets = {block: store(self.dense.device) for block in own}
        for place, call in enumerate(self.calls):
            with self._watched(layer, own, place) as seen:
                output = call.run(layer, self.dense_hidden[place])
            self.dense_hidden[place] = output
            if not self.again:
                self.parts[place].shapes.append(tuple(output.shape))
            for block in own:
                entry = seen.get((block, "entry"))
                self.targets[block].append(seen[block, "output"] if entry is None else entry + seen[block, "output"])

    @property
    def _own(self) -> list[Block]:
        """The blocks of the layer that the walk has come to."""
        return [block for block in self.blocks_in_order if block.root == self.stops[self.layer].root]

    def blocks(self) -> Iterator[Block]:
        """Every block in forward order; when one is yielded, the walk has come as far as it.

        The blocks before it must not change any more.
        """
        before: Block | None = None
        for block in self.blocks_in_order:
            if before is None or block.root != before.root:
                self.enter(self.layer + 1)
            else:
                self._settle(before)
            yield block
            before = block
            give_back()

    def _settle(self, block: Block) -> None:
        """Run what computes `block` in the pruned layer a last time, and keep what it puts out."""
        import torch

        if not block.span:
            return
        found: list[Any] = []

        def keep(module: "nn.Module", args: tuple, output: Any) -> None:
            found.append(output)
            raise Reached

        layer, outputs = self._without_masked(), store(self.dense.device)
        handle = layer.get_submodule(block.span).register_forward_hook(keep)
        returned = None
        try:
            for place, call in enumerate(self.calls):
                with suppress(Reached), torch.no_grad(), self._answering(layer, place):
                    call.run(layer, self.pruned_hidden[place])
                returned = found.pop()
                outputs.append(first_of(returned))
        finally:
            handle.remove()
        self.answered.append(Answered(block.span, instead_of(returned, torch.empty(0)), outputs))
        give_back()

    def _without_masked(self) -> "nn.Module":
        """What the pruned layer is without its masked units: the same with fewer products."""
        kept = {block: unmasked(output_projection(self.pruned, block), block) for block in self._own}
        some = {block: units for block, units in kept.items() if len(units) < block.units}
        return shrunk_layer(self.pruned.get_submodule(self.stops[self.layer].root), some)

    @contextmanager
    def _answering(self, layer: "nn.Module", place: int) -> Iterator[None]:
        """While open, what is settled in `layer` does not run."""
        answers = [
            (layer.get_submodule(settled.path), instead_of(settled.returned, settled.outputs[place]))
            for settled in self.answered
        ]
        with answering(answers):
            yield

    def statistics(
        self, block: Block, kept: list[int], first_token_only: bool = False, small: "nn.Module | None" = None
    ) -> BlockStatistics:
        """Statistics of `block`, which is in the layer entered last, for the columns of its `kept` units.

        The target is what the dense model has behind the block minus what the pruned one has before it. `small`: stands for
        the pruned layer, and has no units but those.
        """
        import torch

        columns = columns_of(kept, block.unit_size)
        sums = Sums(len(columns), output_projection(self.dense, block).out_features, self.dense.device)
        layer = self.pruned.get_submodule(block.root) if small is None else small
        for place in range(len(self.places)):
            with torch.no_grad():
                seen = self.through(layer, block, place, stop_before_output=True)
            valid, weight = self.counted(block, place), self.weight(block, place)
            counted = valid
            if first_token_only:
                counted = valid & (torch.arange(valid.shape[1], device=valid.device) == 0)
                weight = weight[counted[valid]]
            x = seen.pop("input")[counted]
            if len(kept) < block.units and small is None:
                x = x[:, columns]
            target = self.targets[block][place]
            sums.add(x, (target - seen["entry"] if "entry" in seen else target)[counted], weight)
        give_back()
        return sums.statistics()

    def counted(self, block: Block, place: int) -> "torch.Tensor":
        """[samples, rows], which rows of `block` count in a place."""
        import torch

        rows, valid = self.targets[block][place], self.parts[self.places[place][0]].valid
        if valid is None or valid.shape[1] != rows.shape[1]:
            return torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return valid

    def weight(self, block: Block, place: int) -> "torch.Tensor":
        """[tokens], what each of the rows of `block` that count in a place counts."""
        import torch

        if self.weights is None:
            return torch.ones(int(self.counted(block, place).sum()), device=self.dense.device)
        part, visit = self.places[place]
        arrays = [self.weights[block][index][visit] for index in self.parts[part].indices]
        return torch.from_numpy(np.concatenate(arrays)).to(self.dense.device)

    def tokens(self, block: Block) -> int:
        """How many rows of `block` count in all places."""
        return sum(int(self.counted(block, place).sum()) for place in range(len(self.places)))

    def through(
        self, layer: "nn.Module", block: Block, place: int, stop_before_output: bool = False
    ) -> "dict[str, torch.Tensor]":
        """Run the pruned model's hidden states of a place through `layer` up to the output projection of `block`.

        `layer` is the pruned model's or stands for it. Returns, as rows, "entry", the residual stream before the block
        where it feeds that, "input" of the output projection, and its "output" unless that is not wanted.
        """
        stop_at = "input" if stop_before_output else "output"
        answered, watched = self._answering(layer, place), self._watched(layer, [block], place, stop_at)
        with answered, watched as seen, suppress(Reached):
            self.calls[place].run(layer, self.pruned_hidden[place])
        return {name: tensor for (_, name), tensor in seen.items()}

    def given(self, layer: "nn.Module", block: Block, place: int, paths: Iterable[str]) -> "dict[str, torch.Tensor]":
        """What goes into the linear layers at `paths` of `block`, as rows of tokens that count, [tokens, inputs].

        As `through`, else. Where rows are no tokens of the sequence, all count.
        """
        import torch

        valid, samples = self.counted(block, place), len(self.parts[self.places[place][0]].indices)
        seen: dict[str, torch.Tensor] = {}

        def hook(path: str) -> Callable[..., None]:
            def keep(module: "nn.Module", args: tuple) -> None:
                rows = rows_in(module, args[0], samples)
                seen[path] = rows[valid] if rows.shape[:2] == valid.shape else rows.flatten(0, 1)

            return keep

        handles = [layer.get_submodule(path).register_forward_pre_hook(hook(path)) for path in paths]
        try:
            with torch.no_grad():
                self.through(layer, block, place)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    @contextmanager
    def _watched(
        self, layer: "nn.Module", blocks: Sequence[Block], place: int, stop_at: str = ""
    ) -> "Iterator[dict[tuple[Block, str], torch.Tensor]]":
        """What runs through `blocks` of `layer`, as rows; stops once a block's "input" or "output" is known."""
        seen: dict[tuple[Block, str], torch.Tensor] = {}
        samples = len(self.parts[self.places[place][0]].indices)

        def entry(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> None:
            seen[block, "entry"] = as_rows(hidden, samples)

        def given(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> None:
            seen[block, "input"] = rows_in(module, hidden, samples)
            if stop_at == "input":
                raise Reached

        def put_out(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> None:
            seen[block, "output"] = rows_out(module, hidden, samples)
            if stop_at == "output":
                raise Reached

        with passing(in_layer(layer), blocks, entry, given, put_out):
            yield seen


def stops_of(model: "PreTrainedModel", samples: Samples) -> list[Stop]:
    """The layers of `model` in the order of their first call, as the first of `samples` shows them."""
    visits = visits_of(model, samples.batch([0]).tensors(model.device))
    roots = [visit.root for visit in visits]
    stops: list[Stop] = []
    firsts = [visits[roots.index(root)] for root in roots_of(blocks_of(model))]
    for number, visit in enumerate(firsts):
        like = next(index for index, first in enumerate(firsts[: number + 1]) if first.call.like(visit.call))
        direct = number > 0 and visit.call.hidden is firsts[number - 1].output
        hands_on = any(given.handed_on is not None for block in blocks_of(model) if block.root == visit.root
                       for given in block.given)  # fmt: skip
        empty = instead_of(visit.returned, visit.output[:0])
        stops.append(Stop(visit.root, roots.count(visit.root), direct, like, empty, hands_on))
    return stops
