"""Choose one width per block so that the model meets a budget at the least expected loss.

A multiple-choice knapsack: block b offers widths w at a cost t[b][w] (from the measured table) and a loss c[b][w] (from
its importance curve); pick one width each, minimise the sum of c, keep the sum of t within the budget. Dynamic
programming over discretised cost solves it exactly up to the discretisation; costs are rounded up, so that a plan never
costs more than it claims.
"""

from dataclasses import dataclass

import numpy as np

from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.block import Block
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import Signature
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.statistics.importance import Importance

BUCKETS = 20_000


@dataclass(frozen=True)
class Choices:
    """The widths that a block may take: their costs, and the losses expected at them; all [widths]."""

    widths: np.ndarray
    costs: np.ndarray
    losses: np.ndarray


def plan_within(
    signature: Signature, importance: dict[Block, Importance], costs: Costs, budget: float
) -> Plan:
    """The plan that keeps the most important units at the widths of `choose_widths`."""
    widths = choose_widths(importance, costs, budget)
    return Plan.of(signature, {block: importance[block].kept(width) for block, width in widths.items()})


def choose_widths(importance: dict[Block, Importance], costs: Costs, budget: float) -> dict[Block, int]:
    """The widths of least expected loss whose cost, the fixed part included, is within `budget` (in `costs.unit`).

    Raises UnreachableBudgetError, naming what is reachable.
    """
    choices = []
    for block, curve in importance.items():
        widths = np.asarray(costs.widths(block))
        block_costs = np.asarray([costs.block(block, int(width)) for width in widths])
        choices.append(Choices(widths, block_costs, curve.loss[widths]))
    picked = knapsack(choices, budget - costs.fixed)
    if picked is None:
        reachable = costs.fixed + sum(float(choice.costs.min()) for choice in choices)
        raise UnreachableBudgetError(budget, reachable, costs.unit)
    return {block: int(choice.widths[index]) for block, choice, index in zip(importance, choices, picked, strict=True)}


def knapsack(blocks: list[Choices], budget: float, buckets: int = BUCKETS) -> list[int] | None:
    """Index of the choice of each block that minimises the total loss within `budget`; None where nothing fits."""
    if budget < 0:
        return None
    bucket = max(budget, 1e-12) / buckets
    least_loss = np.zeros(buckets + 1)  # least_loss[t]: best total loss of the blocks so far within t buckets
    taken = []  # taken[b][t]: the choice of block b behind least_loss[t]
    for block in blocks:
        ticks = _ticks(block.costs, bucket, buckets)
        options = np.full((len(ticks), buckets + 1), np.inf)
        for row, tick, loss in zip(options, ticks, block.losses, strict=True):
            if tick <= buckets:
                row[tick:] = least_loss[: buckets + 1 - tick] + loss
        taken.append(options.argmin(axis=0))
        least_loss = options.min(axis=0)
    if not np.isfinite(least_loss[-1]):
        return None
    picked: list[int] = []
    remaining = buckets
    for block, choice_at in zip(reversed(blocks), reversed(taken), strict=True):
        choice = int(choice_at[remaining])
        remaining -= int(_ticks(block.costs, bucket, buckets)[choice])
        picked.append(choice)
    return picked[::-1]


def _ticks(costs: np.ndarray, bucket: float, buckets: int) -> np.ndarray:
    """Costs in whole buckets, rounded up; a hair of slack absorbs floating-point noise, and too much is just too much."""
    return np.minimum(np.ceil(costs / bucket - 1e-9), buckets + 1).astype(np.int64)
