"""A module that is given something for all of its units, and takes what belongs to those that it kept."""

import copy
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
        """Run the module on the slices that are its own, and hand on what it hands on whole."""
        forward = super().forward  # type: ignore[misc]
        bound = inspect.signature(forward).bind(*args, **kwargs)
        whole = whole_of(self, self.selects, bound.arguments)
        if whole is not None:
            own = whole.index_select(self.selects.axis, self.selected.to(whole.device))
            bound.arguments[self.selects.argument] = own
        return handing_on(forward(*bound.args, **bound.kwargs), self.selects, whole)


class Aside(nn.Module):
    """Stands where a module without any unit left stood that hands something on: puts out nothing, and hands it on."""

    def __init__(self, module: nn.Module, given: Given, tuple_of: int, size: int):
        super().__init__()
        self.given, self.tuple_of = given, tuple_of
        self.signature = inspect.signature(type(module).forward)
        self.maker = copy.copy(module)  # without what makes the units
        self.maker._modules = {
            name: each for name, each in module._modules.items() if not isinstance(each, nn.Linear)
        }
        self.register_buffer("nothing", torch.zeros(size), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return nothing that is added to the residual stream, and what is handed on."""
        arguments = self.signature.bind(self, *args, **kwargs).arguments
        whole = whole_of(self.maker, self.given, arguments)
        return handing_on((self.nothing, *[None] * (self.tuple_of - 1)), self.given, whole)


def whole_of(module: Any, given: Given, arguments: dict[str, Any]) -> torch.Tensor | None:
    """What `module` is called with for all units; made by the module itself where it is the first."""
    whole = arguments.get(given.argument)
    if whole is None and given.made_by:
        tokens = arguments["hidden_states"].shape[1]
        return getattr(module, given.made_by)(tokens, tokens)
    return whole


def handing_on(returned: Any, given: Given, whole: torch.Tensor | None) -> Any:
    """`returned`, with `whole` in the place where the layers behind take it from."""
    if given.handed_on is None or whole is None:
        return returned
    return (*returned[: given.handed_on], whole, *returned[given.handed_on + 1 :])


def select_(module: nn.Module, given: Given, kept: list[int]) -> None:
    """Make `module`, in place, take the slices of the units `kept` of what it is `given`."""
    module.__class__ = type(f"Selecting{type(module).__name__}", (Selecting, type(module)), {})
    setattr(module, "selects", given)  # noqa: B010 (a module's own __setattr__ is typed for tensors)
    module.selected = torch.tensor(kept)
