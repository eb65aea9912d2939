"""What the latency of a model depends on: two checkpoints with one signature share a latency table."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from prune2deploy.files import Record
from prune2deploy.models.block import Block
from prune2deploy.models.family import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOLD = {"hidden_size", "activation", "norm", "input", "outputs"}  # that need no more: the norm goes with the family
IN_NAMES = ("activation", "input")  # of the fixed part, what a table's file name says; outputs come last


class CurveShape(Record):
    """What the blocks of one curve have in common. `unit_size`: columns of a unit in the output projection."""

    kind: str
    units: int = Field(ge=1)
    unit_size: int = Field(ge=1)


class Signature(Record):
    """Which curves a model has and where, and what its fixed part depends on; derived from the family's blocks."""

    family: str
    curves: dict[str, CurveShape]
    blocks: dict[str, str] = Field(description="the curve of every block, in forward order")
    calls: dict[str, int] = Field(default_factory=dict, description="of blocks that a forward pass runs more than once")
    fixed: dict[str, str | int]

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        return of_equal_layers(values) if isinstance(values, dict) and "layers" in values else values

    @model_validator(mode="after")
    def _complete(self) -> "Signature":
        if set(self.blocks.values()) != set(self.curves) or not set(self.calls) <= set(self.blocks):
            raise ValueError("blocks, curves and calls do not fit each other")
        return self

    @property
    def name(self) -> str:
        """Short and unique enough for a file name."""
        layers = sum(self.calls.get(key, 1) for key in self.blocks) // len(self.kinds)
        shapes = [self._shapes(kind) for kind in self.kinds]
        parts = [self.family, f"l{layers}", f"h{self.fixed['hidden_size']}", *shapes]
        parts += [str(self.fixed[name]) for name in IN_NAMES if name in self.fixed]
        alike = len(self.curves) == len(self.kinds) and not self.calls
        if not alike or set(self.fixed) - TOLD:  # sizes alone do not tell one from the other
            parts.append(hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8])
        return "-".join([*parts, f"o{self.fixed['outputs']}"])

    @property
    def kinds(self) -> list[str]:
        """The kinds of blocks, in forward order."""
        return list(dict.fromkeys(self.curves[curve].kind for curve in self.blocks.values()))

    def units(self, key: str) -> int:
        """How many units the dense block `key` has."""
        return self.curves[self.blocks[key]].units

    def _shapes(self, kind: str) -> str:
        """The sizes of all curves of one kind: `"a12x32"`, `"f1536"`."""
        found = {(shape.units, shape.unit_size): None for shape in self.curves.values() if shape.kind == kind}
        return kind[0] + "+".join(f"{units}x{size}" if size > 1 else f"{units}" for units, size in found)


def signature_of(config: "PretrainedConfig") -> Signature:
    """The signature of a dense model with this configuration."""
    family = family_of(config)
    return signature_from(family.model_type, family.blocks(config), family.fixed(config))


def signature_from(family: str, blocks: Sequence[Block], fixed: dict[str, str | int]) -> Signature:
    """The signature of a model of these blocks."""
    return Signature(
        family=family,
        curves={block.curve: CurveShape(kind=block.kind, units=block.units, unit_size=block.unit_size) for block in blocks},
        blocks={block.key: block.curve for block in blocks},
        calls={block.key: block.calls for block in blocks if block.calls > 1},
        fixed=fixed,
    )


def of_equal_layers(values: dict[str, Any]) -> dict[str, Any]:
    """A signature as version 1 stored it, for layers that are all alike, in today's form."""
    heads, kv_heads = values["heads"], values["kv_heads"]
    shapes = {
        "attention": {"kind": "attention", "units": kv_heads, "unit_size": values["head_size"] * heads // kv_heads},
        "ffn": {"kind": "ffn", "units": values["intermediate_size"], "unit_size": 1},
    }
    fixed = {"hidden_size": values["hidden_size"], "activation": values["activation"], "norm": values["norm"]}
    if values.get("input_shape"):
        fixed["input"] = values["input_shape"]
    return {
        "family": values["family"], "curves": shapes, "fixed": {**fixed, "outputs": values["outputs"]},
        "blocks": {f"{layer}.{kind}": kind for layer in range(values["layers"]) for kind in shapes},
    }  # fmt: skip
