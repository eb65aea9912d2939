"""What widths cost: measured milliseconds, or multiply-accumulates as papers count them."""

from abc import ABC, abstractmethod

from prune2deploy.models.family import Block, Kind, ModelSignature
from prune2deploy.profiling.table import LatencyTable

FLOPS_STEP = 16  # filters between the widths that a FLOPs search may choose


class Costs(ABC):
    """Costs of blocks by kind and width; `unit` is what they are counted in."""

    unit: str
    fixed: float

    @abstractmethod
    def widths(self, kind: Kind) -> list[int]:
        """The widths that a block may take, ascending from 0."""

    @abstractmethod
    def block(self, kind: Kind, width: int) -> float:
        """What a block of this width costs."""

    def total(self, widths: dict[Block, int]) -> float:
        """What the model of these widths costs."""
        return self.fixed + sum(self.block(block.kind, width) for block, width in widths.items())


class LatencyCosts(Costs):
    """Milliseconds of a latency table, averaged over its workload; only measured widths are ever chosen."""

    unit = "ms"

    def __init__(self, table: LatencyTable):
        self.table = table
        self.fixed = table.fixed_ms

    def widths(self, kind: Kind) -> list[int]:
        """See Costs."""
        return self.table.widths(kind)

    def block(self, kind: Kind, width: int) -> float:
        """See Costs."""
        return self.table.block_ms(kind, width)


class FlopCosts(Costs):
    """Multiply-accumulates of the blocks as Kwon et al. 2022 count them, as a share of the dense model's blocks."""

    unit = "of the dense FLOPs"
    fixed = 0.0

    def __init__(self, signature: ModelSignature, tokens: float):
        """`tokens`: the mean length of the samples."""
        hidden = signature.hidden_size
        head = 4 * tokens * hidden * signature.head_size + 2 * tokens**2 * signature.head_size
        self.units: dict[Kind, int] = {"attention": signature.kv_heads, "ffn": signature.intermediate_size}
        per_unit: dict[Kind, float] = {
            "attention": head * signature.heads / signature.kv_heads,
            "ffn": 2 * tokens * hidden,
        }
        dense = signature.layers * sum(per_unit[kind] * units for kind, units in self.units.items())
        self.per_unit = {kind: macs / dense for kind, macs in per_unit.items()}

    def widths(self, kind: Kind) -> list[int]:
        """Every head count; filters in steps of 16."""
        units = self.units[kind]
        step = 1 if kind == "attention" else FLOPS_STEP
        return [*range(0, units, step), units]

    def block(self, kind: Kind, width: int) -> float:
        """See Costs."""
        return self.per_unit[kind] * width
