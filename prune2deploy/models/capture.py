"""What runs through a model: what its layers are called with, and what passes the blocks in them.

Every layer is called with its own arguments: masks and rotary tables differ by layer type, sizes by stage.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune2deploy.models.block import Block
from prune2deploy.models.family import blocks_of, roots_of
from prune2deploy.models.projection import as_rows

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

Find = Callable[[Block, str], "nn.Module"]  # the module of a block at a path from its root
Change = Callable[[Block, "nn.Module", "torch.Tensor"], "torch.Tensor | None"]  # what takes a tensor's place, if anything


class Reached(Exception):  # noqa: N818 (a signal, not an error)
    """Raised out of a hook once all that is wanted is known."""


@dataclass
class LayerCall:
    """What a layer is called with: the hidden states, and everything else."""

    hidden: "torch.Tensor"
    args: tuple
    kwargs: dict[str, Any]

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Every tensor of the call by a name that an ONNX input may have."""
        return {"hidden_states": self.hidden, **dict(_named_tensors(self.args, self.kwargs))}

    def with_tensors(self, tensors: "dict[str, torch.Tensor]") -> "tuple[tuple, dict[str, Any]]":
        """The arguments after the hidden states, with `tensors` in the places that they were taken from."""
        import torch
        from torch.utils import _pytree

        leaves, spec = _pytree.tree_flatten((self.args, self.kwargs))
        names = iter([name for name, _ in _named_tensors(self.args, self.kwargs)])
        filled = [tensors[next(names)] if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return _pytree.tree_unflatten(filled, spec)

    def run(self, layer: "nn.Module", hidden: "torch.Tensor") -> "torch.Tensor":
        """The output of `layer` on `hidden`."""
        return first_of(layer(hidden, *self.args, **self.kwargs))

    def like(self, other: "LayerCall") -> bool:
        """Whether all but the hidden states is the very same as in `other`."""
        from torch.utils import _pytree

        (mine, spec), (theirs, other_spec) = (_pytree.tree_flatten((call.args, call.kwargs)) for call in (self, other))
        return spec == other_spec and all(map(_same, mine, theirs))


@dataclass(frozen=True)
class Visit:
    """One run of a layer in a forward pass. `returned`: what the layer gave back, a tensor or several."""

    root: str
    call: LayerCall
    returned: Any

    @property
    def output(self) -> "torch.Tensor":
        """The hidden states that it left."""
        return first_of(self.returned)


def first_of(returned: Any) -> "torch.Tensor":
    """The hidden states among what a layer or an attention module returns."""
    return returned[0] if isinstance(returned, tuple) else returned


def instead_of(returned: Any, hidden: "torch.Tensor") -> Any:
    """`returned`, which a layer gave back, with other hidden states in it and nothing else."""
    return (hidden, *([None] * (len(returned) - 1))) if isinstance(returned, tuple) else hidden


def visits_of(model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> list[Visit]:
    """Every run of a layer when `model` runs on `inputs`, in forward order."""
    import torch

    calls: list[LayerCall] = []
    found: list[Visit] = []

    def before(module: "nn.Module", args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append(_call(args, kwargs))

    def after(root: str) -> Callable[..., None]:
        def hook(module: "nn.Module", args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            found.append(Visit(root, calls.pop(), output))

        return hook

    handles = []
    for root in roots_of(blocks_of(model)):
        layer = model.get_submodule(root)
        handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(layer.register_forward_hook(after(root), with_kwargs=True))
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def call_of(model: "PreTrainedModel", root: str, inputs: "dict[str, torch.Tensor]") -> LayerCall:
    """Run `model` on `inputs` up to its layer at `root`, and return how that is called the first time."""
    import torch

    seen: list[LayerCall] = []

    def hook(module: "nn.Module", args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append(_call(args, kwargs))
        raise Reached

    handle = model.get_submodule(root).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad(), suppress(Reached):
            model(**inputs)
    finally:
        handle.remove()
    return seen[0]


def first_call(model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> LayerCall:
    """How `model` calls its first layer when it runs on `inputs`."""
    return call_of(model, blocks_of(model)[0].root, inputs)


@dataclass(frozen=True)
class HandingOn:
    """An answer for a layer that hands something on: it runs for that, and puts out `hidden` all the same."""

    layer: "nn.Module"
    hidden: "torch.Tensor"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of the layer's `forward`."""
        return (self.hidden, *type(self.layer).forward(self.layer, *args, **kwargs)[1:])


@contextmanager
def answering(answers: "Iterable[tuple[nn.Module, Any]]") -> Iterator[None]:
    """While open, these modules do not run; each returns its answer."""
    silent = list(answers)
    for module, answer in silent:  # shadows the class's forward for this one module
        module.forward = answer if isinstance(answer, HandingOn) else _returning(answer)
    try:
        yield
    finally:
        for module, _ in silent:
            del module.forward


@contextmanager
def resumed(model: "PreTrainedModel", block: Block, hidden: "torch.Tensor") -> Iterator[None]:
    """While open, `model` does not run the layers before that of `block`, and gives it `hidden` as their output."""
    roots = roots_of(blocks_of(model))
    with answering([(model.get_submodule(root), hidden) for root in roots[: roots.index(block.root)]]):
        yield


def _returning(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer


@contextmanager
def passing(
    find: Find, blocks: Iterable[Block], entry: Change | None = None, given: Change | None = None,
    put_out: Change | None = None,
) -> Iterator[None]:
    """While open, tell what passes each of `blocks`, and put what is returned, if anything, in its place.

    Args:
        find: where the modules of a block are: `in_model` or `in_layer`.
        blocks: which of them.
        entry: called with the residual stream before a block.
        given: called with what goes into a block's output projection.
        put_out: called with what comes out of it.
    """
    handles = []
    for block in blocks:
        projection = find(block, block.output)
        if entry and block.entry:
            handles.append(find(block, block.entry).register_forward_pre_hook(_before(block, entry), with_kwargs=True))
        if given:
            handles.append(projection.register_forward_pre_hook(_before(block, given), with_kwargs=True))
        if put_out:
            handles.append(projection.register_forward_hook(_after(block, put_out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_model(model: "PreTrainedModel") -> Find:
    """Where `model` has the modules of its blocks."""
    return lambda block, path: model.get_submodule(f"{block.root}.{path}")


def in_layer(layer: "nn.Module") -> Find:
    """Where `layer`, or a copy of it, has the modules of its blocks."""
    return lambda block, path: layer.get_submodule(path)


def _before(block: Block, change: Change) -> Callable[..., Any]:
    def hook(module: "nn.Module", args: tuple, kwargs: dict[str, Any]) -> Any:
        changed = change(block, module, args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return hook


def _after(block: Block, change: Change) -> Callable[..., Any]:
    return lambda module, args, output: change(block, module, output)


def positions_of(hidden: "torch.Tensor") -> int:
    """How many positions of the residual stream each sample of `hidden` fills."""
    return as_rows(hidden, len(hidden)).shape[1]


def _call(args: tuple, kwargs: Mapping[str, Any]) -> LayerCall:
    kept = {name: value for name, value in kwargs.items() if args or name != "hidden_states"}
    hidden, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
    return LayerCall(hidden, rest, kept)


def _named_tensors(args: tuple, kwargs: dict[str, Any]) -> "Iterator[tuple[str, torch.Tensor]]":
    """The tensors of a call, in the order of its leaves, each by a name of its own."""
    import torch
    from torch.utils import _pytree

    for start, some in (("argument_", args), ("", kwargs)):
        for path, leaf in _pytree.tree_flatten_with_path(some)[0]:
            if isinstance(leaf, torch.Tensor):
                yield start + "_".join(str(getattr(step, "key", getattr(step, "idx", ""))) for step in path), leaf


def _same(mine: Any, theirs: Any) -> bool:
    """Whether two arguments are the same object, or equal plain values."""
    import torch

    if isinstance(mine, torch.Tensor) or isinstance(theirs, torch.Tensor):
        return mine is theirs
    return mine is theirs or (type(mine) is type(theirs) and mine == theirs)
