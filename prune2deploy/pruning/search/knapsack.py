"""Choose a width and a precision for every block so that the model meets a budget at the least expected loss.

A multiple-choice knapsack: block b offers choices at a cost (from the measured table) and a loss (from its importance
curve, and what rounding loses); pick one each, minimise the sum of losses, keep the sum of costs within the budget. Where
a change of precision between neighbours costs something, the precision of the last block that is there is a state of the
walk. Dynamic programming over discretised cost solves it exactly up to the discretisation; costs are rounded up, so that a
plan never costs more than it claims.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.block import Block
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import Signature
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.statistics.importance import Importance

BUCKETS = 20_000
Rounded = Mapping[tuple[Block, str], float]  # the expected loss of a block at its dense width in a lower precision
Change = Callable[[str | None, str | None], float]


@dataclass(frozen=True)
class Choices:
    """What a block may be: its widths, their costs, and the losses expected at them; all [choices].

    `precisions`: of each choice; None: the engine's own.
    """

    widths: np.ndarray
    costs: np.ndarray
    losses: np.ndarray
    precisions: list[str | None] = field(default_factory=list)


def plan_within(
    signature: Signature, importance: dict[Block, Importance], costs: Costs, budget: float,
    rounded: Rounded | None = None,
) -> Plan:
    """The plan that keeps the most important units at the widths of `choose`, in its precisions."""
    chosen = choose(importance, costs, budget, rounded)
    kept = {block: importance[block].kept(width) for block, (width, _) in chosen.items()}
    return Plan.of(signature, kept, {block.key: lower for block, (_, lower) in chosen.items() if lower})


def choose_widths(importance: dict[Block, Importance], costs: Costs, budget: float) -> dict[Block, int]:
    """The widths alone that `choose` finds."""
    return {block: width for block, (width, _) in choose(importance, costs, budget).items()}


def choose(
    importance: dict[Block, Importance], costs: Costs, budget: float, rounded: Rounded | None = None
) -> dict[Block, tuple[int, str | None]]:
    """(width, precision) of each block, of least expected loss, whose cost is within `budget` (in `costs.unit`).

    The fixed part is included. Rounding loses in proportion to the units that are left: each adds its own error to what
    the block puts out. Raises UnreachableBudgetError, naming what is reachable.
    """
    choices = [_choices(block, curve, costs, rounded or {}) for block, curve in importance.items()]
    picked = knapsack(choices, budget - costs.fixed, change=costs.change)
    if picked is None:
        reachable = costs.fixed + sum(float(choice.costs.min()) for choice in choices)
        raise UnreachableBudgetError(budget, reachable, costs.unit)
    return {
        block: (int(of.widths[index]), of.precisions[index] if of.widths[index] else None)
        for block, of, index in zip(importance, choices, picked, strict=True)
    }


def _choices(block: Block, curve: Importance, costs: Costs, rounded: Rounded) -> Choices:
    widths: list[int] = []
    precisions: list[str | None] = []
    losses: list[float] = []
    for precision in costs.precisions(block):
        of_dense = rounded.get((block, precision), 0.0) if precision else 0.0
        for width in costs.widths(block, precision):
            if width or not widths:  # a block that is gone has no precision
                widths.append(width)
                precisions.append(precision)
                losses.append(float(curve.loss[width]) + of_dense * width / block.units)
    of_each = [costs.block(block, width, lower) for width, lower in zip(widths, precisions, strict=True)]
    return Choices(np.asarray(widths), np.asarray(of_each), np.asarray(losses), precisions)


def knapsack(
    blocks: list[Choices], budget: float, buckets: int = BUCKETS, change: Change | None = None
) -> list[int] | None:
    """Index of the choice of each block that minimises the total loss within `budget`; None where nothing fits.

    `change`: what it costs that the last block with any width was in one precision and this one is in another.
    """
    if budget < 0:
        return None
    bucket = max(budget, 1e-12) / buckets
    walk = Walk(blocks, bucket, buckets, change)
    least = np.full((len(walk.states), buckets + 1), np.inf)  # least[s, t]: best total loss within t buckets, ending in s
    least[0] = 0.0
    taken = []  # taken[b][s, t]: the choice of block b behind least[s, t], and the state before it
    for block in blocks:
        least, behind = walk.step(least, block)
        taken.append(behind)
    state = int(least[:, -1].argmin())
    if not np.isfinite(least[state, -1]):
        return None
    picked: list[int] = []
    remaining = buckets
    for block, behind in zip(reversed(blocks), reversed(taken), strict=True):
        choice, before = divmod(int(behind[state, remaining]), len(walk.states))
        remaining -= walk.ticks(block, choice, before)
        picked.append(choice)
        state = before
    return picked[::-1]


class Walk:
    """Goes from block to block. A state is the precision of the last block that is there; one is enough if none counts."""

    def __init__(self, blocks: list[Choices], bucket: float, buckets: int, change: Change | None):
        self.bucket, self.buckets = bucket, buckets
        kinds = list(dict.fromkeys(kind for block in blocks for kind in block.precisions))
        prices = {(a, b): change(a, b) for a in kinds for b in kinds} if change else {}
        self.prices = prices if any(prices.values()) else {}
        self.states: list = ["start", *kinds] if self.prices else ["start"]

    def step(self, least: np.ndarray, block: Choices) -> tuple[np.ndarray, np.ndarray]:
        """(what is least after `block`, what was taken for that), from what was least before it; [states, buckets]."""
        after = np.full_like(least, np.inf)
        taken = np.zeros(least.shape, dtype=np.int64)
        for choice, loss in enumerate(block.losses):
            for before in range(len(self.states)):
                ticks = self.ticks(block, choice, before)
                if ticks > self.buckets:
                    continue
                state = self._after(block, choice, before)
                offered = least[before, : self.buckets + 1 - ticks] + loss
                better = offered < after[state, ticks:]
                after[state, ticks:][better] = offered[better]
                taken[state, ticks:][better] = choice * len(self.states) + before
        return after, taken

    def ticks(self, block: Choices, choice: int, before: int) -> int:
        """Buckets that a choice takes, rounded up; a hair of slack absorbs floating-point noise."""
        cost = float(block.costs[choice])
        if self.prices and before and block.widths[choice]:
            cost += self.prices[self.states[before], block.precisions[choice]]
        return int(min(np.ceil(cost / self.bucket - 1e-9), self.buckets + 1))

    def _after(self, block: Choices, choice: int, before: int) -> int:
        if not self.prices or not block.widths[choice]:
            return before
        return self.states.index(block.precisions[choice], 1)
