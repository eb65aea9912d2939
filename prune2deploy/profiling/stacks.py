"""Block graphs: one block repeated over a few of the model's own layers, as the exporter will write it.

A stack keeps `width` units in every block of one kind and none in the others, so that its latency, minus that of the
stack without any block, divided by its layers, is what one such block adds. Repetition inside one graph, with distinct
weights, makes the difference large against call overhead and leaves the caches in the state that the model leaves.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.family import Kind
from prune2deploy.models.layer_call import LayerCall, capture
from prune2deploy.models.plan import Plan
from prune2deploy.models.registry import blocks_of, family_of, layers_of
from prune2deploy.models.reweigh import Template
from prune2deploy.models.to_onnx import to_onnx
from prune2deploy.tasks.base import Arrays, Task, tensors

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

LAYERS = 4  # of the model's own that a stack repeats its block over
# two shapes for tracing: an axis is free where they differ, and its size says which one it is
TRACE, OTHER = {"batch": 2, "sequence": 7}, {"batch": 3, "sequence": 11}


def make_stack(model: "PreTrainedModel", call: LayerCall, widths: dict[Kind, int]) -> "nn.Module":
    """The first layers of `model` with every block at its kind's width, as a module of the call's tensors."""
    from torch import nn

    from prune2deploy.models.surgery import shrunk

    signature = family_of(model.config).signature(model.config)
    slim = shrunk(model, Plan.of(signature, {block: range(widths[block.kind]) for block in blocks_of(model)}))

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers_of(slim)[:LAYERS]

        def forward(self, inputs: "dict[str, torch.Tensor]") -> "torch.Tensor":
            args, kwargs = call.with_tensors(inputs)
            hidden = inputs["hidden_states"]
            for layer in self.layers:
                hidden = layer(hidden, *args, **kwargs)
            return hidden

    return Stack().eval()


class Stacks:
    """Makes and keeps the stacks of one model in a directory, so that an interrupted sweep finds them again."""

    def __init__(self, model: "PreTrainedModel", task: Task, directory: Path):
        self.model = model
        self.task = task
        self.directory = directory
        self.templates: dict[tuple[Kind, ...], Template] = {}  # by the kinds of block that are there
        self.layers = min(LAYERS, len(layers_of(model)))
        self.call = capture(model, tensors(task.synthetic_inputs(TRACE["batch"], TRACE["sequence"])))
        other = capture(model, tensors(task.synthetic_inputs(OTHER["batch"], OTHER["sequence"]))).tensors()
        self.axes = {
            name: {
                axis: next(dim for dim, length in TRACE.items() if length == size)
                for axis, (size, changed) in enumerate(zip(tensor.shape, other[name].shape, strict=True))
                if size != changed
            }
            for name, tensor in self.call.tensors().items()
        }

    def path(self, widths: dict[Kind, int]) -> Path:
        """The ONNX file of this stack, made if it is not there."""
        path = self.directory / ("-".join(f"{kind}{width}" for kind, width in sorted(widths.items())) + ".onnx")
        if not path.exists():
            stack = make_stack(self.model, self.call, widths)
            present = tuple(kind for kind, width in sorted(widths.items()) if width)
            template = self.templates.get(present)
            if template is None or not template.write(stack, path):
                self._export(stack, path)
                self.templates[present] = Template(path, stack)
        return path

    def _export(self, stack: "nn.Module", path: Path) -> None:
        named = {dim for axes in self.axes.values() for dim in axes.values()}
        limits = {dim: limit for dim, limit in self.task.axis_limits().items() if dim in named}
        to_onnx(stack, self.call.tensors(), self.axes, limits, "hidden", path)

    def inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """What the model itself would call its first layer with at this shape, where every token counts.

        Called so, the model would leave out the mask, which the graph takes: hence one row more, which has padding, and
        which is cut off again.
        """
        call = capture(self.model, tensors(self.task.synthetic_inputs(batch + 1, seq_len)))
        found = {}
        for name, tensor in call.tensors().items():
            of_batch = [axis for axis, dim in self.axes[name].items() if dim == "batch"]
            whole = tensor.narrow(of_batch[0], 0, batch) if of_batch else tensor
            found[name] = np.ascontiguousarray(whole.numpy())
        return found
