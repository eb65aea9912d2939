"""Mask tuning: one scale per kept unit, by least squares from the pruned prefix to the dense model, block by block."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import Projection, output_projection
from prune2deploy.progress import Progress
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics
from prune2deploy.pruning.statistics.streams import Streams
from prune2deploy.tasks.base import Samples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RIDGE = 1e-2  # of the mean of the normal matrix's diagonal, pulling the scales toward 1
Solve = Callable[[Block, list[int], BlockStatistics, Projection], None]


def tune_masks(
    dense: "PreTrainedModel", pruned: "PreTrainedModel", plan: Plan, samples: Samples, progress: Progress
) -> None:
    """Scale, in place, every kept unit of the masked model `pruned` (Kwon et al. 2022, section 4.3).

    The bias goes along: it takes the value that makes the mean of the block right, which for a block without any kept
    unit is all that can be done.
    """
    import torch

    def solve(block: Block, kept: list[int], statistics: BlockStatistics, projection: Projection) -> None:
        columns = columns_of(kept, block.unit_size)
        weight = projection.weight[:, columns].double()
        scales = np.repeat(scales_of(statistics, weight.numpy(), block.unit_size), block.unit_size)
        write_columns(projection, columns, weight * torch.from_numpy(scales), statistics)

    walk(dense, pruned, plan, samples, solve, progress, "tuning masks")


def walk(
    dense: "PreTrainedModel", pruned: "PreTrainedModel", plan: Plan, samples: Samples, solve: Solve,
    progress: Progress, description: str,
) -> None:
    """Call `solve` for every block in forward order, each on what the blocks before it have become by then."""
    streams = Streams(dense, pruned, samples)
    with progress.track(description, len(streams.blocks_in_order)) as advance:
        for block in streams.blocks():
            kept = plan.units(block)
            solve(block, kept, streams.statistics(block, kept), output_projection(pruned, block))
            advance()


def scales_of(statistics: BlockStatistics, weight: np.ndarray, unit_size: int, ridge: float = RIDGE) -> np.ndarray:
    """[units] minimising E‖ȳ-centred y − Σ_u s_u W_u x_u‖² + ridge · mean diagonal · ‖s − 1‖².

    `weight`: [d, units · unit_size], the kept columns.
    """
    gram, cross = (moment.numpy() for moment in statistics.centred())
    if not len(gram):
        return np.zeros(0)
    units = len(gram) // unit_size
    # ⟨W_u x_u, W_v x_v⟩ summed over tokens is the sum over the (u, v) tile of E[x xᵀ] ∘ WᵀW
    normal = (gram * (weight.T @ weight)).reshape(units, unit_size, units, unit_size).sum((1, 3))
    right = (cross * weight.T).reshape(units, unit_size, -1).sum((1, 2))
    strength = ridge * float(np.trace(normal)) / units
    if strength == 0:
        return np.ones(units)
    return np.linalg.solve(normal + strength * np.eye(units), right + strength)


def write_columns(
    projection: Projection, columns: "torch.Tensor", weight: "torch.Tensor", statistics: BlockStatistics
) -> None:
    """Set the kept columns of `projection`, and the bias that makes the mean of its output right."""
    import torch

    bias = statistics.y_sum / statistics.n - weight @ (statistics.x_sum / statistics.n)
    with torch.no_grad():
        projection.weight[:, columns] = weight.to(projection.weight.dtype)
        if projection.bias is not None:
            projection.bias.copy_(bias)
