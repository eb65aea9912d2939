"""ZipLM, one-shot (Kurtic et al. 2023), as a baseline: optimal brain surgeon per structure, SPDY over the layers.

What is kept as it was: the inputs are the dense model's, uncentred; structures go one at a time, the least squared error
of the output projection first (their equations 3 to 5), and the weights left are updated; a level costs the relative
squared error of the block's output, 1 for a whole block, which takes its bias along; SPDY (Frantar and Alistarh 2022)
multiplies the costs of each block by a coefficient in [0, 1] and searches for coefficients by the calibration loss of the
model that the knapsack then yields: random vectors first, then mutations of the best one.

What differs: 30 vectors and 30 mutations, where the one-shot code has 10 and 10, after a first vector of ones; the
calibration loss is the divergence from the dense model, which needs no labels and is what `prune` judges by; a removed
block leaves its LayerNorm behind, as every removed block does here; and a budget within a tenth of the one that was
searched for last takes over its coefficients, so that the closed loop searches once (`profile_search.py`).
"""

from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import silence_
from prune2deploy.pruning.methods.method import Method, State, Step
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.search.profile_search import ProfileSearch
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.importance import Importance
from prune2deploy.pruning.statistics.moments import moments_of
from prune2deploy.pruning.statistics.removal import damped, leave_, removal_curve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRIALS = 60


class ZipLmMethod(Method):
    """Greedy removal with weight update in each block, knapsack under searched coefficients."""

    name = "ziplm"
    reads_labels = False

    def __init__(self, calibration: Calibration):
        import torch

        super().__init__(calibration)
        self.inputs: dict[Block, torch.Tensor] = {}  # [k, k]: mean x xᵀ of the output projection's inputs, damped
        self.errors: dict[Block, Importance] = {}
        moments = moments_of(calibration).blocks
        with calibration.progress.track("removing structure by structure", len(moments)) as advance:
            for block, found in moments.items():
                second = torch.from_numpy(found.covariance + np.outer(found.mean, found.mean))
                weight = output_projection(calibration.model, block).weight
                curve = removal_curve(weight, second, torch.eye(len(weight)), block.unit_size, per_step=1)
                self.errors[block] = Importance(curve.order, curve.loss / max(float(curve.loss[0]), 1e-300))
                self.inputs[block] = damped(second)
                advance()
        self.profiles = ProfileSearch(calibration, self.signature, self.errors, self.stitch_, TRIALS)

    def search(self, costs: Costs, budget: float) -> Plan:
        """See Method."""
        return self.profiles.plan(costs, budget)

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
        """Give the output projection of `block`, in place, the weights that OBS leaves to the units `kept`."""
        dense, projection = output_projection(self.calibration.model, block), output_projection(model, block)
        leave_(projection, dense, columns_of(kept, block.unit_size), self.inputs[block])
        if projection.bias is not None and not kept:
            projection.bias.detach().zero_()
