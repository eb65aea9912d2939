"""A module that is given something for all of its units, and takes what belongs to those that it kept."""

import inspect
from typing import Any

import torch
from torch import nn

from prune2deploy.models.block import Given


class Selecting:
    """Mixed into the class of a module, so that its parameters keep their names."""

    selects: Given
    selected: torch.Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module on the slices that are its own."""
        forward = super().forward  # type: ignore[misc]
        bound = inspect.signature(forward).bind(*args, **kwargs)
        whole = bound.arguments.get(self.selects.argument)
        if whole is not None:
            own = whole.index_select(self.selects.axis, self.selected.to(whole.device))
            bound.arguments[self.selects.argument] = own
        return forward(*bound.args, **bound.kwargs)


def select_(module: nn.Module, given: Given, kept: list[int]) -> None:
    """Make `module`, in place, take the slices of the units `kept` of what it is `given`."""
    module.__class__ = type(f"Selecting{type(module).__name__}", (Selecting, type(module)), {})
    setattr(module, "selects", given)  # noqa: B010 (a module's own __setattr__ is typed for tensors)
    module.selected = torch.tensor(kept)
