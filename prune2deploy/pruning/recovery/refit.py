"""Re-fit: every kept weight of an output projection by ridge regression, block by block, on the pruned prefix.

Where mask tuning has one number a unit, the re-fit has the unit's whole column; both aim at what the dense model has in
the residual stream behind the block. After K-prune (Park et al. 2024, knowledge-preserving weight tuning) and OSSCAR (Meng
et al. 2024), with the strength of the ridge relative to the inputs' own variance.
"""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import Projection
from prune2deploy.progress import Progress
from prune2deploy.pruning.recovery.tuning import walk, write_columns
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics
from prune2deploy.pruning.statistics.linear_algebra import solve_
from prune2deploy.tasks.base import Samples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RIDGE = 1e-2  # of the inputs' mean variance, pulling toward the weights that are there


def refit(dense: "PreTrainedModel", pruned: "PreTrainedModel", plan: Plan, samples: Samples, progress: Progress) -> None:
    """Re-fit, in place, the output projections of the masked model `pruned`, biases included."""

    def solve_block(block: Block, kept: list[int], statistics: BlockStatistics, projection: Projection) -> None:
        fit_columns(projection, columns_of(kept, block.unit_size), statistics)

    walk(dense, pruned, plan, samples, solve_block, progress, "re-fitting output projections")


def fit_columns(projection: Projection, columns: "torch.Tensor", statistics: BlockStatistics) -> None:
    """Re-fit, in place, these columns of `projection`, and its bias. `statistics`: of the same columns."""
    weight = projection.weight[:, columns].double()
    write_columns(projection, columns, ridge(statistics, weight), statistics)


def ridge(statistics: BlockStatistics, weight: "torch.Tensor") -> "torch.Tensor":
    """[d, k] minimising E‖centred y − V x‖² + `RIDGE` · mean variance of x · ‖V − weight‖²."""
    gram, cross = statistics.centred()
    if not len(gram):
        return weight
    penalty = RIDGE * float(gram.trace()) / len(gram)
    if penalty == 0:
        return weight
    gram.diagonal().add_(penalty)
    return solve_(gram, cross.add_(weight.T, alpha=penalty)).T.contiguous()
