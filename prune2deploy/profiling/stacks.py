"""Block graphs: one block repeated over a few of the model's own layers, as the exporter will write it.

A stack keeps `width` units in every block of one curve and none in the others, so that its latency, minus that of the
stack without any block, divided by its layers, is what one such block adds. Repetition inside one graph, with distinct
weights, makes the difference large against call overhead and leaves the caches in the state that the model leaves.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.graphs.quantise import quantise
from prune2deploy.graphs.reweigh import Template
from prune2deploy.graphs.to_onnx import to_onnx
from prune2deploy.models.block import Block
from prune2deploy.models.capture import LayerCall, Visit, visits_of
from prune2deploy.models.family import blocks_of, layer_of
from prune2deploy.models.projection import linears_of
from prune2deploy.precisions import for_timing
from prune2deploy.tasks.base import Arrays, Task, tensors

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

LAYERS = 4  # runs of layers that a stack repeats its block over
OTHERWISE = 1e-3  # of its size, by which a layer's weights are changed when it has to be there twice
# two shapes for tracing: an axis is free where they differ, and its size says which one it is
TRACE, OTHER = {"batch": 2, "sequence": 7}, {"batch": 3, "sequence": 11}


class Stacks:
    """Makes and keeps the stacks of one curve of a model in a directory, so that an interrupted sweep finds them again."""

    def __init__(self, model: "PreTrainedModel", task: Task, curve: str, directory: Path):
        self.model, self.task, self.curve, self.directory = model, task, curve, directory
        self.blocks = blocks_of(model)
        self.template: Template | None = None  # of a stack that has the block
        visits = self._visits(task.synthetic_inputs(TRACE["batch"], TRACE["sequence"]))
        self.chain = chain_of(visits, self.blocks, curve)
        in_layer = Counter(block.root for block in self.blocks if block.curve == curve)
        self.runs = sum(in_layer[visits[index].root] for index in self.chain)  # of blocks of the curve, in one of the stack
        self.call = visits[self.chain[0]].call
        other = self._visits(task.synthetic_inputs(OTHER["batch"], OTHER["sequence"]))[self.chain[0]].call.tensors()
        self.roots = [visits[index].root for index in self.chain]
        self.axes = {
            name: {
                axis: next(dim for dim, length in TRACE.items() if size * OTHER[dim] == changed * length)
                for axis, (size, changed) in enumerate(zip(tensor.shape, other[name].shape, strict=True))
                if size != changed
            }
            for name, tensor in self.call.tensors().items()
        }

    def path(self, width: int, precision: str | None = None, narrow: bool = False) -> Path:
        """The ONNX file of the stack with this width, made if it is not there.

        `precision`: of the blocks, if it is not the engine's own; `narrow`: see `precisions.Format`.
        """
        plain = self._plain(width)
        if precision is None or not width:
            return plain
        path = self.directory / f"{self.curve}-{width}-{precision}.onnx"
        if not path.exists():
            stack = self._stack(width)
            quantise(plain, stack, for_timing(stack, self._linears(stack), precision, narrow), path)
        return path

    def _stack(self, width: int) -> "nn.Module":
        return make_stack(self.model, self.roots, self.call, self.blocks, self.curve, width)

    def _linears(self, stack: "nn.Module") -> list[str]:
        """The paths of the linear layers that the blocks of the curve are made of."""
        return [
            f"layers.{index}.{path}" for index, root in enumerate(self.roots) for block in self.blocks
            if block.root == root and block.curve == self.curve
            for path in linears_of(stack.get_submodule(f"layers.{index}"), block)
        ]  # fmt: skip

    @property
    def takes_precisions(self) -> bool:
        """Whether blocks of the curve can be computed in less than the engine is."""
        own = (block for block in self.blocks if block.curve == self.curve)
        return all(linears_of(layer_of(self.model, block), block) for block in own)

    def _plain(self, width: int) -> Path:
        path = self.directory / f"{self.curve}-{width}.onnx"
        if not path.exists():
            stack = self._stack(width)
            if self.template is None or not width or not self.template.write(stack, path):
                self._export(stack, path)
                if width:
                    self.template = Template(path, stack, self.call.tensors())
        return path

    def inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """What the model itself would call the first layer of the stack with at this shape, where every token counts.

        Called so, the model would leave out the mask, which the graph takes: hence one row more, which has padding, and
        which is cut off again.
        """
        call = self._visits(self.task.synthetic_inputs(batch + 1, seq_len))[self.chain[0]].call
        found = {}
        for name, tensor in call.tensors().items():
            of_batch = [axis for axis, dim in self.axes[name].items() if dim == "batch"]
            if of_batch:  # where a sample is several texts, it is as many rows
                tensor = tensor.narrow(of_batch[0], 0, tensor.shape[of_batch[0]] // (batch + 1) * batch)
            found[name] = np.ascontiguousarray(tensor.numpy())
        return found

    def _visits(self, inputs: Arrays) -> list[Visit]:
        return visits_of(self.model, tensors(inputs))

    def _export(self, stack: "nn.Module", path: Path) -> None:
        named = {dim for axes in self.axes.values() for dim in axes.values()}
        limits = {dim: limit for dim, limit in self.task.axis_limits().items() if dim in named}
        to_onnx(stack, self.call.tensors(), self.axes, limits, ["hidden"], path)


def chain_of(visits: list[Visit], blocks: list[Block], curve: str) -> list[int]:
    """Indices of `LAYERS` visits, each to a layer with a block of `curve`, that can follow each other.

    Where there are too few, they come again; a layer that puts out another shape than it is given is all alone.
    """
    roots = {block.root for block in blocks if block.curve == curve}
    found = [index for index, visit in enumerate(visits) if visit.root in roots]
    first = visits[found[0]]
    if first.output.shape != first.call.hidden.shape:
        return found[:1]
    fitting = [
        index for index in found
        if visits[index].call.hidden.shape == visits[index].output.shape == first.output.shape
        and visits[index].call.like(first.call)
    ]  # fmt: skip
    return [fitting[index % len(fitting)] for index in range(LAYERS)]


def make_stack(
    model: "PreTrainedModel", roots: list[str], call: LayerCall, blocks: list[Block], curve: str, width: int
) -> "nn.Module":
    """The layers at `roots`, with the blocks of `curve` at `width` and no others, as a module of the call's tensors."""
    from torch import nn

    layers: list[nn.Module] = []
    for index, root in enumerate(roots):
        own = [block for block in blocks if block.root == root]
        if root in roots[:index] and own[0].calls > 1:  # the very same layer, as in the model
            layers.append(layers[roots.index(root)])
        else:
            layers.append(_thinned(model.get_submodule(root), own, curve, width, again=root in roots[:index]))

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, inputs: "dict[str, torch.Tensor]") -> "tuple[torch.Tensor]":
            args, kwargs = call.with_tensors(inputs)
            hidden = inputs["hidden_states"]
            for layer in self.layers:
                hidden = LayerCall(hidden, args, kwargs).run(layer, hidden)
            return (hidden,)

    return Stack().eval()


def _thinned(layer: "nn.Module", own: list[Block], curve: str, width: int, again: bool) -> "nn.Module":
    """`layer` with `width` units in its blocks of `curve`; `again`: with weights of its own."""
    import copy

    import torch

    from prune2deploy.models.surgery import shrunk_layer

    if again:
        layer = copy.deepcopy(layer)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(1 + OTHERWISE)
    return shrunk_layer(layer, {block: list(range(width if block.curve == curve else 0)) for block in own})
