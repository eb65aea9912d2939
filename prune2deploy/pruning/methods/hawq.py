"""Our method with the precisions chosen as HAWQ-V2 (Dong et al. 2020) prices them: a baseline for that choice alone.

What is kept as it was: the loss of a precision is the mean curvature times the squared error of the weights, rounded to
nearest, and the rounding of activations is not looked at. What differs: the curvature is that of our moments, and the price
is paid in measured milliseconds, together with widths.
"""

from prune2deploy.models.block import Block
from prune2deploy.pruning.methods.ours import OursMethod
from prune2deploy.pruning.statistics.rounding_loss import coarse_losses, mean_curvatures


class HawqMethod(OursMethod):
    """Widths as ours, precisions by traces."""

    name = "hawq"

    def _prepare_rounding(self) -> None:
        self.curvatures = mean_curvatures(self.moments.blocks)

    def _rounding_losses(self, precisions: list[str]) -> dict[tuple[Block, str], float]:
        return coarse_losses(self.calibration, self.curvatures, precisions, self.calibration.narrow)
