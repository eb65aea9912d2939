"""ZipLM, one-shot (Kurtic et al. 2023), as a baseline: optimal brain surgeon per structure, SPDY over the layers.

What is kept as it was: the inputs are the dense model's, uncentred; structures go one at a time, the least squared error
of the output projection first (their equations 3 to 5), and the weights left are updated; a level costs the relative
squared error of the block's output, 1 for a whole block, which takes its bias along; SPDY (Frantar and Alistarh 2022)
multiplies the costs of each block by a coefficient in [0, 1] and searches for coefficients by the calibration loss of the
model that the knapsack then yields: random vectors first, then mutations of the best one.

What differs: 30 vectors and 30 mutations, where the one-shot code has 10 and 10, after a first vector of ones; the
calibration loss is the divergence from the dense model, which needs no labels and is what `prune` judges by; a removed
block leaves its LayerNorm behind, as every removed block does here; and a budget within a tenth of the one that was
searched for last takes over its coefficients, so that the closed loop searches once.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.family import Block
from prune2deploy.models.plan import Plan
from prune2deploy.models.registry import output_projection
from prune2deploy.models.surgery import columns_of, silence_
from prune2deploy.pruning.calibrate import Calibration
from prune2deploy.pruning.costs import Costs
from prune2deploy.pruning.importance import Importance
from prune2deploy.pruning.method import Method, State, Step
from prune2deploy.pruning.moments import moments_of
from prune2deploy.pruning.removal import damped, removal_curve
from prune2deploy.pruning.search import plan_within
from prune2deploy.tasks.predict import outputs_of, torch_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANDOM_VECTORS = 30
MUTATIONS = 30
MUTATION_RATE = 0.1  # of the coefficients that a mutation draws anew; at least one
SAMPLES = 256  # of the calibration samples, that coefficients are judged on
NEAR = 0.1  # budgets that differ by less share their coefficients


@dataclass(frozen=True)
class Searched:
    """The coefficients [blocks] that were found best for a budget."""

    costs: Costs
    budget: float
    coefficients: np.ndarray

    def serves(self, costs: Costs, budget: float) -> bool:
        """Whether they will do for this budget too."""
        return costs is self.costs and abs(budget - self.budget) < NEAR * self.budget


class ZipLmMethod(Method):
    """Greedy removal with weight update in each block, knapsack under searched coefficients."""

    name = "ziplm"
    reads_labels = False

    def __init__(self, calibration: Calibration):
        import torch

        super().__init__(calibration)
        self.inputs: dict[Block, np.ndarray] = {}  # [k, k]: mean x xᵀ of the output projection's inputs, damped
        self.errors: dict[Block, Importance] = {}
        self.searched: Searched | None = None
        moments = moments_of(calibration).blocks
        with calibration.progress.track("removing structure by structure", len(moments)) as advance:
            for block, found in moments.items():
                second = torch.from_numpy(found.covariance + np.outer(found.mean, found.mean))
                weight = output_projection(calibration.model, block).weight
                curve = removal_curve(weight, second, torch.eye(len(weight)), block.unit_size, per_step=1)
                self.errors[block] = Importance(curve.order, curve.loss / max(float(curve.loss[0]), 1e-300))
                self.inputs[block] = damped(second).numpy()
                advance()

    def search(self, costs: Costs, budget: float) -> Plan:
        """See Method."""
        if self.searched is None or not self.searched.serves(costs, budget):
            self.searched = Searched(costs, budget, self._coefficients(costs, budget))
        return self._plan(self.searched.coefficients, costs, budget)

    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        """See Method."""

        def update(state: State) -> State:
            for block in self.calibration.blocks:
                self.stitch_(state.model, block, state.plan.units(block))
            return state

        return [("OBS update", update)]

    def masked(self, plan: Plan) -> "PreTrainedModel":
        """See Method; a block without any kept unit loses its bias too."""
        model = super().masked(plan)
        silence_(model, plan)
        return model

    def stitch_(self, model: "PreTrainedModel", block: Block, kept: list[int]) -> None:
        """Give the output projection of `block`, in place, the weights that OBS leaves to the units `kept`.

        They are the least squares from the inputs of what is kept to the dense output, W G_:S (G_SS)⁻¹.
        """
        import torch

        dense, projection = output_projection(self.calibration.model, block), output_projection(model, block)
        columns = columns_of(kept, block.unit_size)
        updated = self._updated(dense.weight.double().numpy(), block, columns.numpy())
        with torch.no_grad():
            projection.weight.zero_()
            projection.weight[:, columns] = torch.from_numpy(updated).to(projection.weight.dtype)
            if projection.bias is not None:
                projection.bias.copy_(dense.bias if kept else torch.zeros_like(dense.bias))

    def _updated(self, weight: np.ndarray, block: Block, columns: np.ndarray) -> np.ndarray:
        from scipy.linalg import solve

        if len(columns) in (0, weight.shape[1]):
            return weight[:, columns]
        inputs = self.inputs[block][columns]
        return solve(inputs[:, columns], inputs @ weight.T, assume_a="pos").T

    def _plan(self, coefficients: np.ndarray, costs: Costs, budget: float) -> Plan:
        pairs = zip(self.errors.items(), coefficients, strict=True)
        scaled = {block: Importance(curve.order, factor * curve.loss) for (block, curve), factor in pairs}
        return plan_within(self.signature, scaled, costs, budget)

    def _coefficients(self, costs: Costs, budget: float) -> np.ndarray:
        """The coefficients of least calibration loss that random draws, and then mutations of the best one, find."""
        rng = np.random.default_rng(self.calibration.seed)
        loss_of = CalibrationLoss(self)
        best = self.searched.coefficients if self.searched else np.ones(len(self.errors))
        least = loss_of(self._plan(best, costs, budget))
        with self.calibration.progress.track("searching coefficients", RANDOM_VECTORS + MUTATIONS) as advance:
            for trial in range(RANDOM_VECTORS + MUTATIONS):
                candidate = rng.uniform(size=len(best))
                if trial >= RANDOM_VECTORS:
                    drawn = rng.random(len(best)) < MUTATION_RATE
                    drawn[rng.integers(len(best))] = True
                    candidate = np.where(drawn, candidate, best)
                loss = loss_of(self._plan(candidate, costs, budget))
                if loss < least:
                    best, least = candidate, loss
                advance()
        return best


class CalibrationLoss:
    """The divergence of stitched models from the dense one, over a fixed part of the calibration samples."""

    def __init__(self, method: ZipLmMethod):
        calibration = method.calibration
        chosen = np.random.default_rng(calibration.seed).permutation(len(calibration.samples))[:SAMPLES]
        self.method, self.task = method, calibration.task
        self.samples = calibration.samples.select(sorted(chosen.tolist()))
        self.model = copy.deepcopy(calibration.model)
        self.reference = outputs_of(torch_run(self.model), self.samples)
        self.kept = {block: list(range(block.units)) for block in calibration.blocks}  # of what is stitched now
        self.known: dict[tuple[str, ...], float] = {}

    def __call__(self, plan: Plan) -> float:
        """The loss of what `plan` leaves, stitched together from the blocks' updated weights."""
        profile = tuple(plan.kept.values())
        if profile not in self.known:
            for block, standing in self.kept.items():
                if (kept := plan.units(block)) != standing:
                    self.method.stitch_(self.model, block, kept)
                    self.kept[block] = kept
            outputs = outputs_of(torch_run(self.model), self.samples)
            self.known[profile] = self.task.divergence(outputs, self.reference)
        return self.known[profile]
