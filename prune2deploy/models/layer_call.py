"""What the layers of a model are called with, found by running the model up to its first layer."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from prune2deploy.models.registry import layers_of

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


class LayerCall:
    """What a layer is called with: the hidden states, and everything else, which all layers share."""

    def __init__(self, hidden: "torch.Tensor", args: tuple, kwargs: dict[str, Any]):
        self.hidden = hidden
        self.args = args
        self.kwargs = kwargs

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Every tensor of the call by a name that an ONNX input may have."""
        import torch

        named = {"hidden_states": self.hidden}
        named |= {f"argument_{index}": value for index, value in enumerate(self.args) if isinstance(value, torch.Tensor)}
        named |= {name: value for name, value in self.kwargs.items() if isinstance(value, torch.Tensor)}
        return named

    def with_tensors(self, tensors: "dict[str, torch.Tensor]") -> "tuple[tuple, dict[str, Any]]":
        """The arguments after the hidden states, with `tensors` in the places that they were taken from."""
        args = tuple(tensors.get(f"argument_{index}", value) for index, value in enumerate(self.args))
        return args, {name: tensors.get(name, value) for name, value in self.kwargs.items()}

    def run(self, layer: "nn.Module", hidden: "torch.Tensor") -> "torch.Tensor":
        """The output of `layer` on `hidden`."""
        return layer(hidden, *self.args, **self.kwargs)


class _Captured(Exception):  # noqa: N818 (a signal, not an error)
    pass


def capture(model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> LayerCall:
    """Run `model` on `inputs` up to its first layer, and return how that is called."""
    import torch

    seen: list[LayerCall] = []

    def hook(module: "nn.Module", args: tuple, kwargs: dict[str, Any]) -> None:
        kept = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        hidden, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
        seen.append(LayerCall(hidden, rest, kept))
        raise _Captured

    handle = layers_of(model)[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
    except _Captured:
        pass
    finally:
        handle.remove()
    return seen[0]


def resumed(model: "PreTrainedModel", layer: int, hidden: "torch.Tensor") -> AbstractContextManager[None]:
    """While open, `model` does not run the layers before `layer`, and gives it `hidden` as their output."""
    return answering(layers_of(model)[:layer], hidden)


@contextmanager
def answering(modules: "Iterable[nn.Module]", answer: Any) -> Iterator[None]:
    """While open, `modules` do not run; each returns `answer`."""
    silent = list(modules)
    for module in silent:
        module.forward = lambda *args, **kwargs: answer  # shadows the class's for this one module
    try:
        yield
    finally:
        for module in silent:
            del module.forward
