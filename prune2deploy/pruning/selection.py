"""Selection and re-fit in one walk: units are chosen by what the already pruned prefix feeds them."""

from typing import TYPE_CHECKING

from prune2deploy.models.family import Block
from prune2deploy.models.registry import output_projection
from prune2deploy.models.surgery import columns_of, mask_block_
from prune2deploy.progress import Progress
from prune2deploy.pruning.moments import Moments
from prune2deploy.pruning.refit import fit_columns, ridge
from prune2deploy.pruning.removal import removal_curve
from prune2deploy.pruning.streams import BlockStatistics, Streams
from prune2deploy.tasks.base import Samples

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def select_and_refit(
    dense: "PreTrainedModel", pruned: "PreTrainedModel", widths: dict[Block, int], moments: Moments, samples: Samples,
    progress: Progress,
) -> dict[Block, list[int]]:
    """Choose `widths` units of each block and re-fit its output projection, in place in `pruned`, in forward order.

    `pruned` starts with the weights of `dense`. Each block's units go by `removal_curve` from the best dense answer to the
    prefix as it is by then; the survivors are then fitted by ridge regression to what the dense model has in the
    residual stream behind the block (after OSSCAR, Meng et al. 2024, and K-prune, Park et al. 2024). Tokens count by
    their weight in `moments`.

    Returns:
        The kept units of each block.
    """
    streams = Streams(dense, pruned, samples, moments.weights)
    kept: dict[Block, list[int]] = {}
    with progress.track("selecting and re-fitting", len(widths)) as advance:
        for block in streams.blocks():
            statistics = streams.statistics(block, list(range(block.units)))
            projection = output_projection(pruned, block)
            kept[block] = _select(block, widths[block], statistics, projection, moments)
            mask_block_(projection, block, kept[block])
            columns = columns_of(kept[block], block.unit_size)
            fit_columns(projection, columns, statistics.of(columns))
            advance()
    return kept


def _select(
    block: Block, width: int, statistics: BlockStatistics, projection: "nn.Linear", moments: Moments
) -> list[int]:
    import torch

    if width in (0, block.units):
        return list(range(width))
    best = ridge(statistics, projection.weight.double())
    covariance = statistics.centred()[0]
    sensitivity = torch.from_numpy(moments.blocks[block].sensitivity).to(best.device)
    curve = removal_curve(best, covariance, sensitivity, block.unit_size, keep=width, overwrite=True)
    return curve.kept(width)
