"""What widths cost: measured milliseconds, or multiply-accumulates as papers count them."""

import itertools
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
    """Costs of blocks by width, and by precision where there are several; `unit` is what they are counted in.

    A precision of None is the engine's own.
    """

    unit: str
    fixed: float

    def precisions(self, block: Block) -> list[str | None]:
        """What `block` may be computed in; the first is what a method takes that knows of no precisions."""
        return [None]

    @abstractmethod
    def widths(self, block: Block, precision: str | None = None) -> list[int]:
        """The widths that `block` may take, ascending from 0."""

    @abstractmethod
    def block(self, block: Block, width: int, precision: str | None = None) -> float:
        """What `block` costs at this width."""

    def change(self, before: str | None, after: str | None) -> float:
        """What it costs that one block is in one precision and the next one in another."""
        return 0.0

    def total(self, widths: Mapping[Block, int], precisions: Mapping[str, str] | None = None) -> float:
        """What the model of these widths costs; `precisions`: of blocks, by key, that are not in the engine's own."""
        lower = precisions or {}
        there = [lower.get(block.key) for block, width in widths.items() if width]
        blocks = sum(self.block(block, width, lower.get(block.key)) for block, width in widths.items())
        return self.fixed + blocks + sum(itertools.starmap(self.change, itertools.pairwise(there)))


class LatencyCosts(Costs):
    """Milliseconds of a latency table, averaged over its workload; only measured widths are ever chosen."""

    unit = "ms"

    def __init__(self, table: LatencyTable, only: str | None = None):
        """`only`: what all blocks are computed in that were measured in it; None: whatever the table has."""
        self.table, self.only = table, only
        self.fixed = table.fixed_ms

    def precisions(self, block: Block) -> list[str | None]:
        """See Costs."""
        lower = self.table.lower_precisions(block.curve)
        if self.only is not None:
            return [self.only if self.only in lower else None]
        return [None, *lower]

    def widths(self, block: Block, precision: str | None = None) -> list[int]:
        """See Costs."""
        return self.table.widths(block.curve, precision)

    def block(self, block: Block, width: int, precision: str | None = None) -> float:
        """See Costs."""
        return self.table.block_ms(block, width, precision)

    def change(self, before: str | None, after: str | None) -> float:
        """See Costs."""
        return self.table.change_ms(before, after)


class PlainCosts(Costs):
    """Other costs, as a method sees them that knows of no precisions: each block is in the first of its own."""

    def __init__(self, costs: Costs):
        self.costs, self.fixed, self.unit = costs, costs.fixed, costs.unit

    def widths(self, block: Block, precision: str | None = None) -> list[int]:
        """See Costs."""
        return self.costs.widths(block, self.costs.precisions(block)[0])

    def block(self, block: Block, width: int, precision: str | None = None) -> float:
        """See Costs."""
        return self.costs.block(block, width, self.costs.precisions(block)[0])


class FlopCosts(Costs):
    """Multiply-accumulates of the blocks as Kwon et al. 2022 count them, as a share of the dense model's blocks."""

    unit = "of the dense FLOPs"
    fixed = 0.0

    def __init__(self, macs: Mapping[Block, float]):
        """`macs`: of one unit of each block, for one sample."""
        dense = sum(of_one * block.units for block, of_one in macs.items())
        self.per_unit = {block: of_one / dense for block, of_one in macs.items()}

    def widths(self, block: Block, precision: str | None = None) -> list[int]:
        """Every head count; filters in steps of 16."""
        step = 1 if block.columns > 1 or block.units <= FEW else FLOPS_STEP
        return [*range(0, block.units, step), block.units]

    def block(self, block: Block, width: int, precision: str | None = None) -> float:
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
