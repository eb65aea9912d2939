"""What stands where a block stood that kept no unit."""

import torch
from torch import nn


class PassThrough(nn.Module):
    """Stands where the producers of a vanished block stood."""

    def __init__(self, returns_pair: bool = False):
        super().__init__()
        self.returns_pair = returns_pair

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        """Return the input, in a pair with None where the caller expects attention weights."""
        return (hidden_states, None) if self.returns_pair else hidden_states


class BiasOnly(nn.Module):
    """Stands where the output projection of a vanished block stood, and returns its bias (0 without one)."""

    def __init__(self, projection: nn.Linear, returns_pair: bool = False):
        super().__init__()
        bias = projection.bias if projection.bias is not None else torch.zeros(projection.out_features)
        self.bias = nn.Parameter(bias.detach().clone())
        self.returns_pair = returns_pair

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        """Return the bias, which broadcasts over batch and sequence."""
        return (self.bias, None) if self.returns_pair else self.bias
