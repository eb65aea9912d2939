"""The search over profiles of widths: SPDY (Frantar and Alistarh 2022), as ZipLM (Kurtic et al. 2023) has it.

The knapsack adds up what removal costs in each block alone. Multiplying each block's curve by a coefficient gives other
profiles within the same budget; the one is taken whose model is nearest to the dense one on calibration samples. All
coefficients one, which is the knapsack's own answer, come first, then random vectors, then mutations of the best.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import Signature
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.search.knapsack import Rounded, plan_within
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.importance import Importance
from prune2deploy.tasks.predict import outputs_of, torch_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Stitch = Callable[["PreTrainedModel", Block, list[int]], None]  # gives a block, in place, what removal leaves to these units

RANDOM = 0.5  # of the trials; the others are mutations
MUTATION_RATE = 0.1  # of the coefficients that a mutation draws anew; at least one
SAMPLES = 256  # of the calibration samples, that profiles are judged on
NEAR = 0.1  # budgets that differ by less share their coefficients, so that the closed loop searches once


@dataclass(frozen=True)
class Searched:
    """The coefficients [blocks] that were found best for a budget."""

    costs: Costs
    budget: float
    coefficients: np.ndarray

    def serves(self, costs: Costs, budget: float) -> bool:
        """Whether they will do for this budget too."""
        return costs is self.costs and abs(budget - self.budget) < NEAR * self.budget


class ProfileSearch:
    """Finds plans of one model by its blocks' curves, and by `trials` profiles that are judged; 0: by the curves alone."""

    def __init__(
        self, calibration: Calibration, signature: Signature, curves: dict[Block, Importance], stitch: Stitch,
        trials: int, rounded: Rounded | None = None,
    ):
        """`rounded`: what blocks lose in lower precisions, which may still be filled; profiles are judged unrounded."""
        self.calibration, self.signature, self.curves = calibration, signature, curves
        self.stitch, self.trials, self.rounded = stitch, trials, rounded
        self.searched: Searched | None = None

    def plan(self, costs: Costs, budget: float) -> Plan:
        """The best plan found within `budget` (in `costs.unit`); raises UnreachableBudgetError."""
        if not self.trials:
            return plan_within(self.signature, self.curves, costs, budget, self.rounded)
        if self.searched is None or not self.searched.serves(costs, budget):
            self.searched = Searched(costs, budget, self._coefficients(costs, budget))
        return self._plan_under(self.searched.coefficients, costs, budget)

    def _plan_under(self, coefficients: np.ndarray, costs: Costs, budget: float) -> Plan:
        pairs = zip(self.curves.items(), coefficients, strict=True)
        scaled = {block: Importance(curve.order, factor * curve.loss) for (block, curve), factor in pairs}
        return plan_within(self.signature, scaled, costs, budget, self.rounded)

    def _coefficients(self, costs: Costs, budget: float) -> np.ndarray:
        """Those of least calibration loss."""
        rng = np.random.default_rng(self.calibration.seed)
        best = self.searched.coefficients if self.searched else np.ones(len(self.curves))
        first = self._plan_under(best, costs, budget)  # a budget out of reach is said before anything is run
        loss_of = CalibrationLoss(self.calibration, self.stitch)
        least = loss_of(first)
        with self.calibration.progress.track("searching profiles", self.trials) as advance:
            for trial in range(self.trials):
                candidate = rng.uniform(size=len(best))
                if trial >= RANDOM * self.trials:
                    drawn = rng.random(len(best)) < MUTATION_RATE
                    drawn[rng.integers(len(best))] = True
                    candidate = np.where(drawn, candidate, best)
                loss = loss_of(self._plan_under(candidate, costs, budget))
                if loss < least:
                    best, least = candidate, loss
                advance()
        return best


class CalibrationLoss:
    """The divergence of stitched models from the dense one, over a fixed part of the calibration samples."""

    def __init__(self, calibration: Calibration, stitch: Stitch):
        chosen = np.random.default_rng(calibration.seed).permutation(len(calibration.samples))[:SAMPLES]
        self.stitch, self.task = stitch, calibration.task
        self.samples = calibration.samples.select(sorted(chosen.tolist())).first(SAMPLES)
        self.model = copy.deepcopy(calibration.model)
        self.reference = outputs_of(torch_run(self.model, self.task), self.task, self.samples)
        self.kept = {block: list(range(block.units)) for block in calibration.blocks}  # of what is stitched now
        self.known: dict[tuple[str, ...], float] = {}

    def __call__(self, plan: Plan) -> float:
        """The loss of what `plan` leaves, stitched together from the blocks' updated weights."""
        profile = tuple(plan.kept.values())
        if profile not in self.known:
            for block, standing in self.kept.items():
                if (kept := plan.units(block)) != standing:
                    self.stitch(self.model, block, kept)
                    self.kept[block] = kept
            outputs = outputs_of(torch_run(self.model, self.task), self.task, self.samples)
            self.known[profile] = self.task.objective.divergence(outputs, self.reference)
        return self.known[profile]
