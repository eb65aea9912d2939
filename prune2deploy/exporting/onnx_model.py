"""A transformers model of any widths as an ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.models.to_onnx import to_onnx
from prune2deploy.tasks.base import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

OUTPUT = "logits"
TRACE_BATCH, TRACE_LENGTH = 2, 8


def export_onnx(model: "PreTrainedModel", task: Task, path: Path) -> None:
    """Write `model` to `path` with the task's free axes named; raises CheckFailedError where the graph is invalid."""
    import torch
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: "dict[str, torch.Tensor]") -> "torch.Tensor":
            return self.model(**inputs).logits

    axes = task.dynamic_axes()
    example = task.synthetic_inputs(TRACE_BATCH, TRACE_LENGTH)
    inputs = {name: torch.from_numpy(example[name]) for name in axes}
    to_onnx(Logits().eval(), inputs, axes, task.axis_limits(), OUTPUT, path)
