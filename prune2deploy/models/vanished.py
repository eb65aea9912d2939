"""What stands where a block stood that kept no unit."""

import math

import torch
from torch import nn

from prune2deploy.models.block import Block
from prune2deploy.models.selection import Aside


class PassThrough(nn.Module):
    """Stands where a module on the way into a vanished block stood."""

    def __init__(self, replaced: nn.Module, tuple_of: int = 0):
        super().__init__()
        self.tuple_of = tuple_of
        self.stride = math.prod(int(part.stride[0]) for part in replaced.modules() if isinstance(part, nn.Conv2d))

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        """Return the input, of a feature map the places that the replaced convolution would have looked at."""
        if self.stride > 1:
            hidden_states = hidden_states[:, :, :: self.stride, :: self.stride]
        return _as_called(hidden_states, self.tuple_of)


class BiasOnly(nn.Module):
    """Stands where the output projection of a vanished block stood, and returns its bias (0 without one)."""

    def __init__(self, projection: nn.Linear | nn.Conv2d, tuple_of: int = 0, full: bool = False):
        super().__init__()
        self.made_up = projection.bias is None
        bias = projection.bias if projection.bias is not None else projection.weight.new_zeros(len(projection.weight))
        self.bias = nn.Parameter(bias.detach().clone())
        self.tuple_of, self.full = tuple_of, full
        self.stride = projection.stride if isinstance(projection, nn.Conv2d) else None

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        """Return the bias: alone, so that it broadcasts, or in the shape that the projection would have put out."""
        put_out = self._in_full(hidden_states) if self.full else self.bias
        return _as_called(put_out, self.tuple_of)

    def _in_full(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.stride is None:
            return hidden_states.new_zeros((*hidden_states.shape[:-1], len(self.bias))) + self.bias
        samples, _, height, width = hidden_states.shape
        places = [(size - 1) // step + 1 for size, step in zip((height, width), self.stride, strict=True)]
        return hidden_states.new_zeros((samples, len(self.bias), *places)) + self.bias[:, None, None]


def _as_called(hidden_states: torch.Tensor, tuple_of: int) -> object:
    return (hidden_states, *[None] * (tuple_of - 1)) if tuple_of else hidden_states


def vanish_(layer: nn.Module, block: Block) -> None:
    """Replace, in place, `block` of `layer` by what it puts out without any unit: the bias of its output projection."""
    projection = layer.get_submodule(block.output)
    assert isinstance(projection, nn.Linear | nn.Conv2d)
    handing = {given.path: given for given in block.given if given.handed_on is not None}
    for stand_in in block.gone:
        if given := handing.get(stand_in.path):
            gone = layer.get_submodule(stand_in.path)
            module: nn.Module = Aside(gone, given, stand_in.tuple_of, len(projection.weight))
        elif stand_in.returns == "input":
            module = PassThrough(layer.get_submodule(stand_in.path), stand_in.tuple_of)
        else:
            module = BiasOnly(projection, stand_in.tuple_of, full=stand_in.returns == "full bias")
        layer.set_submodule(stand_in.path, module)
