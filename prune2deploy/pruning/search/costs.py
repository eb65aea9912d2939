"""What widths cost: measured milliseconds, or multiply-accumulates as papers count them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block
from prune2deploy.models.capture import in_model, passing
from prune2deploy.models.family import layer_of
from prune2deploy.models.projection import modules_of, rows_in
from prune2deploy.models.table import LatencyTable

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

FLOPS_STEP = 16  # units between the widths that a FLOPs search may choose, of blocks that have many
FEW = 32  # units up to which it may choose any width


class Costs(ABC):
    """Costs of blocks by width; `unit` is what they are counted in."""

    unit: str
    fixed: float

    @abstractmethod
    def widths(self, block: Block) -> list[int]:
        """The widths that `block` may take, ascending from 0."""

    @abstractmethod
    def block(self, block: Block, width: int) -> float:
        """What `block` costs at this width."""

    def total(self, widths: dict[Block, int]) -> float:
        """What the model of these widths costs."""
        return self.fixed + sum(self.block(block, width) for block, width in widths.items())


class LatencyCosts(Costs):
    """Milliseconds of a latency table, averaged over its workload; only measured widths are ever chosen."""

    unit = "ms"

    def __init__(self, table: LatencyTable):
        self.table = table
        self.fixed = table.fixed_ms

    def widths(self, block: Block) -> list[int]:
        """See Costs."""
        return self.table.widths(block.curve)

    def block(self, block: Block, width: int) -> float:
        """See Costs."""
        return self.table.block_ms(block, width)


class FlopCosts(Costs):
    """Multiply-accumulates of the blocks as Kwon et al. 2022 count them, as a share of the dense model's blocks."""

    unit = "of the dense FLOPs"
    fixed = 0.0

    def __init__(self, macs: Mapping[Block, float]):
        """`macs`: of one unit of each block, for one sample."""
        dense = sum(of_one * block.units for block, of_one in macs.items())
        self.per_unit = {block: of_one / dense for block, of_one in macs.items()}

    def widths(self, block: Block) -> list[int]:
        """Every head count; filters in steps of 16."""
        step = 1 if block.columns > 1 or block.units <= FEW else FLOPS_STEP
        return [*range(0, block.units, step), block.units]

    def block(self, block: Block, width: int) -> float:
        """See Costs."""
        return self.per_unit[block] * width


def macs_of(
    model: "PreTrainedModel", blocks: list[Block], inputs: "dict[str, torch.Tensor]", tokens: float
) -> dict[Block, float]:
    """Multiply-accumulates of one unit of each block.

    A unit's weights are used once at every position; a head multiplies every position with every other that it sees, for
    its scores and for what it passes on.

    Args:
        model: dense.
        blocks: of the model.
        inputs: a batch without padding, which tells how many positions each block sees.
        tokens: positions of the first layer that a sample has.
    """
    import torch

    seen: dict[Block, tuple[float, float]] = {}  # positions of a sample in all calls, and how many a head sees together
    samples = len(next(iter(inputs.values())))

    def given(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> None:
        positions = rows_in(module, hidden, samples).shape[1]
        before, _ = seen.get(block, (0.0, 0.0))
        seen[block] = before + positions, float(hidden.shape[-2])

    with torch.no_grad(), passing(in_model(model), blocks, given=given):
        model(**inputs)
    # the batch may be longer than samples are
    share = tokens / max(positions / block.calls for block, (positions, _) in seen.items())
    found = {}
    for block, (positions, together) in seen.items():
        weights = sum(module.weight.numel() for module in modules_of(layer_of(model, block), block)) / block.units
        found[block] = positions * share * weights
        if block.kind == "attention":
            found[block] += 2 * positions * share * (together * share) * block.unit_size
    return found
