"""Selection and re-fit of a block: units are chosen by what the already pruned prefix feeds them."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.projection import Projection, output_projection
from prune2deploy.models.surgery import mask_block_
from prune2deploy.pruning.recovery.refit import fit_columns, ridge
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics
from prune2deploy.pruning.statistics.removal import removal_curve
from prune2deploy.pruning.statistics.streams import Streams

if TYPE_CHECKING:
    import numpy as np


def select_and_refit(streams: Streams, block: Block, width: int, sensitivity: "np.ndarray") -> list[int]:
    """Choose `width` units of `block`, which the walk has come to, and re-fit its output projection in the pruned model.

    The units go by `removal_curve` from the best dense answer to the prefix as it is by then; the survivors are then fitted
    by ridge regression to what the dense model has in the residual stream behind the block (after OSSCAR, Meng et al. 2024,
    and K-prune, Park et al. 2024). Tokens count by the streams' weights.

    Args:
        streams: of the dense model and a pruned one, in which `block` is as in the dense model.
        block: see above.
        width: units to keep.
        sensitivity: [d, d], the Fisher information of the block's output.

    Returns:
        The kept units.
    """
    statistics = streams.statistics(block, list(range(block.units)))
    projection = output_projection(streams.pruned, block)
    kept = _select(block, width, statistics, projection, sensitivity)
    mask_block_(projection, block, kept)
    columns = columns_of(kept, block.unit_size)
    fit_columns(projection, columns, statistics.of(columns))
    return kept


def _select(
    block: Block, width: int, statistics: BlockStatistics, projection: Projection, sensitivity: "np.ndarray"
) -> list[int]:
    import torch

    if width in (0, block.units):
        return list(range(width))
    best = ridge(statistics, projection.weight.double())
    covariance = statistics.centred()[0]
    seen_by_loss = torch.from_numpy(sensitivity).to(best.device)
    curve = removal_curve(best, covariance, seen_by_loss, block.unit_size, keep=width, overwrite=True)
    return curve.kept(width)
