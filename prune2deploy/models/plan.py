"""The choice for every block: what the search returns, and all that is needed to shrink a model."""

from collections.abc import Iterable, Mapping

from pydantic import Field, field_validator, model_validator

from prune2deploy.errors import InputError
from prune2deploy.files import Record
from prune2deploy.models.block import Block
from prune2deploy.models.signature import Signature


class Plan(Record):
    """Per block key (`"3.ffn"`) the kept units as ranges (`"0-3,7,9-10"`), so that a person can read and diff it.

    `precisions` names the blocks that are not computed in the engine's own precision, `tokens` those after which only a
    share of the tokens goes on.
    """

    schema_version: int = Field(2, ge=1, le=2)
    signature: Signature
    kept: dict[str, str]
    precisions: dict[str, str] = Field(default_factory=dict)
    tokens: dict[str, float] = Field(default_factory=dict)

    @field_validator("schema_version")
    @classmethod
    def _newest(cls, version: int) -> int:
        return 2  # what version 1 had is read as it is

    @field_validator("kept")
    @classmethod
    def _readable(cls, kept: dict[str, str]) -> dict[str, str]:
        for key, ranges in kept.items():
            try:
                units_of(ranges)
            except ValueError as error:
                raise ValueError(f"block {key}: {error}") from None
        return kept

    @model_validator(mode="after")
    def _complete(self) -> "Plan":
        if set(self.kept) != set(self.signature.blocks):
            raise ValueError("the blocks do not match the model signature")
        for key, ranges in self.kept.items():
            units, limit = units_of(ranges), self.signature.units(key)
            if units and units[-1] >= limit:
                raise ValueError(f"block {key}: unit {units[-1]} is kept, but the block has only {limit}")
        if not {*self.precisions, *self.tokens} <= set(self.kept):
            raise ValueError("a precision or a share of tokens is given for a block that is not there")
        shares = [self.tokens[key] for key in self.signature.blocks if key in self.tokens]
        if any(not 0 < share <= 1 for share in shares) or shares != sorted(shares, reverse=True):
            raise ValueError("shares of tokens lie between 0 and 1 and never rise")
        return self

    @classmethod
    def of(
        cls, signature: Signature, kept: Mapping[Block, Iterable[int]], precisions: Mapping[str, str] | None = None
    ) -> "Plan":
        """The plan that keeps `kept` of each block, some of them, by key, in `precisions` of their own."""
        ranges = {block.key: ranges_of(units) for block, units in kept.items()}
        lower = {key: precision for key, precision in (precisions or {}).items() if ranges[key]}
        return cls(signature=signature, kept=ranges, precisions=lower)

    def units(self, block: Block) -> list[int]:
        """The kept units of `block`, ascending."""
        return units_of(self.kept[block.key])

    def width(self, block: Block) -> int:
        """How many units of `block` are kept."""
        return len(self.units(block))

    def precision(self, block: Block) -> str | None:
        """What `block` is computed in; None: what the engine is."""
        return self.precisions.get(block.key)

    def widths(self, blocks: Iterable[Block]) -> dict[Block, int]:
        """How many units of each of `blocks` are kept."""
        return {block: self.width(block) for block in blocks}

    def widths_by_key(self) -> dict[str, int]:
        """How many units of each block are kept, in forward order."""
        return {key: len(units_of(self.kept[key])) for key in self.signature.blocks}

    def check_fits(self, signature: Signature) -> None:
        """Raise InputError where this plan was made for another model."""
        if signature != self.signature:
            raise InputError(f"this plan is for {self.signature.name}, the model is {signature.name}: prune that one")


def ranges_of(units: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` as `"0-2,5"`."""
    runs: list[list[int]] = []
    for unit in sorted(set(units)):
        if runs and unit == runs[-1][1] + 1:
            runs[-1][1] = unit
        else:
            runs.append([unit, unit])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def units_of(ranges: str) -> list[int]:
    """`"0-2,5"` as `[0, 1, 2, 5]`; raises ValueError unless ascending, without repetition and of sane size."""
    units: list[int] = []
    for part in ranges.split(",") if ranges else []:
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part!r} is not a unit or a range of units")
        low, high = int(first), int(last if dash else first)
        if high < low or (units and low <= units[-1]) or high >= 1 << 24:
            raise ValueError(f"{part!r} is out of order")
        units.extend(range(low, high + 1))
    return units
