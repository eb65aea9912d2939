"""A transformers model of any widths as an ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.graphs.to_onnx import OPSET, to_onnx
from prune2deploy.provenance import EXPORTED, cache_key, remove_stale

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from prune2deploy.tasks.base import Task

TRACE_BATCH, TRACE_LENGTH = 2, 8


def exported_form(model: "PreTrainedModel", task: "Task") -> "nn.Module":
    """`model` as a module from a dict of inputs to a tuple of the task's outputs, the form in which it is exported."""
    from torch import nn

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: "dict[str, torch.Tensor]") -> "tuple[torch.Tensor, ...]":
            return tuple(task.said(self.model, inputs).values())

    return Exported().eval()


def export_onnx(model: "PreTrainedModel", task: "Task", path: Path) -> None:
    """Write `model` to `path` with the task's free axes named; raises CheckFailedError where the graph is invalid."""
    axes = task.dynamic_axes()
    to_onnx(exported_form(model, task), example_inputs(task), axes, task.axis_limits(), list(task.graph_outputs), path)


def example_inputs(task: "Task") -> "dict[str, torch.Tensor]":
    """What a model is traced with: padded, so that its mask counts."""
    import torch

    example = task.synthetic_inputs(TRACE_BATCH, TRACE_LENGTH)
    return {name: torch.from_numpy(example[name]) for name in task.dynamic_axes()}


def dense_onnx(model: "PreTrainedModel", task: "Task", directory: Path, digest: str) -> Path:
    """The dense `model`, whose files have hash `digest`, as ONNX in `directory`: exported once, however many ask.

    What another exporter made of it is not taken, and removed: two graphs that are timed against each other must be of one.
    """
    more = [name for name in task.graph_outputs if name not in task.outputs]
    name = f"{digest[:16]}-{'-'.join([*task.dynamic_axes(), *more])}"
    path = directory / f"{name}.{export_key(digest, task)}.onnx"
    if not path.exists():
        export_onnx(model, task, path)
        remove_stale(directory, f"{name}.*", path)
    return path


def export_key(model: str, task: "Task") -> str:
    """The key of graphs of `model`, which says what it is, with the inputs and free axes of `task`."""
    return cache_key(EXPORTED, model, OPSET, task.dynamic_axes(), task.axis_limits(), task.graph_outputs)
