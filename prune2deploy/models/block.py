"""What can be pruned of a model, as data: blocks of equal units, and the tensors that shrink with them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Cut:
    """A module, or a bare parameter, that loses slices when its block loses units.

    Of a module, whatever lies along its outputs goes: rows of the weight, the bias, a norm's statistics. Of a bare
    parameter, slices of `axis`.
    """

    path: str  # from the block's root
    per_unit: tuple[int, ...] = (1,)  # slices of a unit, one number for each section of a fused axis (3 of q, k and v)
    axis: int = 0  # of a bare parameter

    def slices(self, kept: Iterable[int], units: int) -> "torch.Tensor":
        """Indices along the axis that belong to the units `kept` of `units`."""
        import torch

        units_kept, start, parts = list(kept), 0, []
        for size in self.per_unit:
            parts.append(start + columns_of(units_kept, size))
            start += size * units
        return torch.cat(parts)


@dataclass(frozen=True)
class StandIn:
    """What takes the place of the module at `path` once the block has no unit left.

    It returns its input, or the bias of the block's output projection: as it is, where broadcasting makes up the rest,
    or in the full shape of what the projection put out.
    """

    path: str  # from the block's root
    returns: Literal["input", "bias", "full bias"]
    tuple_of: int = 0  # what its caller takes apart: so many, None (such as attention weights) but for the first


@dataclass(frozen=True)
class Given:
    """An argument of a module that is made elsewhere, for all of its units: those that are left get their slices.

    Where the module hands the argument on to the same module of the layers behind, they get it whole.
    """

    path: str  # from the block's root
    argument: str
    axis: int = 1
    handed_on: int | None = None  # the place in what the module returns; None: it does not
    made_by: str = ""  # a method that makes it of a number of queries and of keys, where nobody does (the first layer)


@dataclass(frozen=True)
class Block:
    """Equal units that feed one output projection, whose result goes to the residual stream or to a bottleneck."""

    key: str  # what plans, tables and reports call it: "3.ffn"
    root: str  # its layer, as a path in the model
    layer: int  # the number of its layer, in forward order
    kind: str  # a word for people: "attention", "ffn", "channels"
    curve: str  # blocks of one curve take the same time at the same width
    units: int
    output: str  # the output projection: its input columns are the units', unit after unit
    columns: int  # of the output projection a unit has
    cuts: tuple[Cut, ...]  # of what makes the units
    gone: tuple[StandIn, ...]
    entry: str = ""  # a module whose input is the residual stream that the output is added to; "": it feeds a bottleneck
    span: str = ""  # a module that computes this block and nothing of the next one in its layer
    attributes: tuple[str, ...] = ()  # numbers, as paths from the root, that modules keep of their units
    given: tuple[Given, ...] = ()
    taps: int = 1  # places that a convolution as output projection looks at for each column
    calls: int = 1  # how often a forward pass runs the layer

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return f"layer {self.layer} {self.kind}"

    @property
    def unit_size(self) -> int:
        """Columns of a unit in the output projection as a matrix."""
        return self.columns * self.taps

    @property
    def parts(self) -> tuple[str, ...]:
        """Every path in its layer that the block is made of, the output projection last."""
        return (*(cut.path for cut in self.cuts), self.output)


def columns_of(units: Iterable[int], unit_size: int) -> "torch.Tensor":
    """Indices of the columns (or rows) that belong to `units`."""
    import torch

    first = torch.tensor(list(units), dtype=torch.long)
    return (first[:, None] * unit_size + torch.arange(unit_size)).flatten()


def size_of_heads(config: Any, hidden_size: int, heads: int) -> int:
    """The size of `heads` equal heads; raises ValueError, saying what the configuration has, where they do not come out."""
    if min(heads, hidden_size) < 1:
        raise ValueError(f"{heads} heads and hidden_size {hidden_size}: each must be 1 or more")
    if hidden_size % heads or getattr(config, "head_dim", None) not in (None, hidden_size // heads):
        size = getattr(config, "head_dim", None) or f"hidden_size {hidden_size} / {heads}"
        raise ValueError(f"{heads} heads of {size}: only heads that are equal shares of hidden_size work yet")
    return hidden_size // heads


def stages_of(config: Any, *names: str) -> list[tuple[int, ...]]:
    """What the lists `names` of a configuration say of each stage; raises ValueError where they do not fit each other."""
    lists = {name: getattr(config, name) for name in names}
    for name, values in lists.items():
        if not isinstance(values, list | tuple) or not all(isinstance(each, int) and each > 0 for each in values):
            raise ValueError(f"{name} is {values!r}: a number for each stage, 1 or more")
    if len({len(values) for values in lists.values()}) > 1:
        told = " and ".join(f"{name} has {len(values)} stages" for name, values in lists.items())
        raise ValueError(f"{told}: as many in both")
    count = getattr(config, "num_stages", None)
    found = list(zip(*lists.values(), strict=True))
    if count not in (None, len(found)):
        raise ValueError(f"num_stages is {count}, and {names[0]} has {len(found)}")
    return found
