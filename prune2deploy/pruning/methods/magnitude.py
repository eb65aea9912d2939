"""Magnitude pruning, the baseline that looks at no data: units of small weights go first.

A unit is scored by the squared L2 norm of all its weights, the rows that make it and the columns that pass it on (biases
are left out), as a share of its block's: dropping units costs the squared Frobenius distortion of the block's weights
relative to their norm. This relative distortion is what Lee et al. 2021 ("Layer-adaptive sparsity for the magnitude-based
pruning", section 3) compare layers by; the norms themselves would only say which layers have large weights.
"""

from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block
from prune2deploy.models.family import layer_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import as_matrix, modules_of
from prune2deploy.pruning.methods.method import Method, Step
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.search.knapsack import plan_within
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.importance import by_score

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MagnitudeMethod(Method):
    """Knapsack over the shares of squared norm; no recovery."""

    name = "magnitude"
    reads_labels = False

    def __init__(self, calibration: Calibration):
        super().__init__(calibration)
        self.importance = by_score({block: norm_shares(calibration.model, block) for block in calibration.blocks})

    def search(self, costs: Costs, budget: float) -> Plan:
        """See Method."""
        return plan_within(self.signature, self.importance, costs, budget)

    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        """See Method."""
        return []


def norm_shares(model: "PreTrainedModel", block: Block) -> np.ndarray:
    """[units]: the squared L2 norm of each unit's weights, over that of the block's; all 0 where the block's is."""
    *makers, output = modules_of(layer_of(model, block), block)
    norms = np.zeros(block.units)
    for module in makers:  # in each section of its rows: the units one below the other
        sections = next(len(cut.per_unit) for cut in block.cuts if layer_of(model, block).get_submodule(cut.path) is module)
        for weight in module.weight.chunk(sections):
            norms += weight.double().square().reshape(block.units, -1).sum(1).numpy()
    norms += as_matrix(output).weight.T.double().square().reshape(block.units, -1).sum(1).numpy()
    return norms / max(float(norms.sum()), 1e-300)
