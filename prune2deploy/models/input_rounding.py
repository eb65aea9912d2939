"""Linear layers of a PyTorch model whose inputs are rounded as an engine of lower precision rounds them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prune2deploy.precisions import INPUT_STEPS, Rounding, input_grid

if TYPE_CHECKING:
    import torch
    from torch import nn


class InputRounding:
    """Rounds what a layer is called with, as a forward pre-hook: copies of the layer have it, too."""

    def __init__(self, rounding: Rounding):
        self.of_each_call = rounding.format.inputs == "dynamic"
        self.low, self.high = rounding.low, rounding.high

    def __call__(self, layer: "nn.Module", args: tuple) -> tuple:
        """In the place of the arguments."""
        low, high = (float(args[0].min()), float(args[0].max())) if self.of_each_call else (self.low, self.high)
        return (rounded(args[0], low, high), *args[1:])


def rounded(inputs: "torch.Tensor", low: float, high: float) -> "torch.Tensor":
    """`inputs` on the grid of unsigned 8-bit numbers from `low` to `high`, in float32 as ONNX's QuantizeLinear does it."""
    scale, zero = input_grid(low, high)
    return ((inputs / float(scale)).round() + zero).clamp(0, INPUT_STEPS).sub(zero).mul(float(scale))


def round_inputs_(model: "nn.Module", roundings: Mapping[str, Rounding]) -> None:
    """Make, in place, the layers at these paths of `model` round their inputs, where their precision does."""
    for path, rounding in roundings.items():
        if rounding.format.by_integers:
            model.get_submodule(path).register_forward_pre_hook(InputRounding(rounding))


@contextmanager
def exact_inputs(model: "nn.Module") -> Iterator[None]:
    """While open, no layer of `model` rounds its inputs."""
    held = []
    for module in model.modules():
        hooks = module._forward_pre_hooks
        if any(isinstance(hook, InputRounding) for hook in hooks.values()):
            held.append((hooks, dict(hooks)))
            for key in [key for key, hook in hooks.items() if isinstance(hook, InputRounding)]:
                del hooks[key]
    try:
        yield
    finally:
        for hooks, before in held:
            hooks.clear()
            hooks.update(before)
