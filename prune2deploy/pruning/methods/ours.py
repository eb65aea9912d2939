"""Our method: removal costs in units of the final loss, selection and re-fit on the pruned prefix, reconstruction."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prune2deploy.memory import give_back
from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.methods.method import Method, State, Step
from prune2deploy.pruning.recovery.reconstruction import reconstruct
from prune2deploy.pruning.recovery.selection import select_and_refit
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.search.profile_search import ProfileSearch
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.importance import Importance
from prune2deploy.pruning.statistics.moments import BlockMoments, moments_of
from prune2deploy.pruning.statistics.removal import damped, leave_, removal_curve
from prune2deploy.pruning.statistics.rounding_loss import rounding_losses
from prune2deploy.pruning.statistics.streams import Streams

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel


class OursMethod(Method):
    """Knapsack over removal curves and the measured table; recovery by regression and by block reconstruction."""

    name = "ours"
    reads_labels = False
    on_gpu = True
    mixes = True
    takes_effort = True

    def __init__(self, calibration: Calibration):
        super().__init__(calibration)
        self.moments = moments_of(calibration)
        with calibration.progress.track("removal curves", len(calibration.blocks)) as advance:
            self.importance = {}
            for block, found in self.moments.blocks.items():
                self.importance[block] = curve_of(calibration.model, block, found)
                give_back()
                advance()
        self._prepare_rounding()
        if not calibration.effort:
            self.moments = self.moments.without_covariances()
        self.rounded: dict[tuple[Block, str], float] = {}
        self.profiles = ProfileSearch(
            calibration, self.signature, self.importance, self._stitch_, calibration.effort, self.rounded
        )

    def search(self, costs: Costs, budget: float) -> Plan:
        """See Method."""
        offered = {lower for block in self.calibration.blocks for lower in costs.precisions(block) if lower}
        if missing := sorted(offered - {lower for _, lower in self.rounded}):
            self.rounded |= self._rounding_losses(missing)
        return self.profiles.plan(costs, budget)

    @property
    def token_weights(self) -> "dict[Block, list[np.ndarray]]":
        """See Method."""
        return self.moments.weights

    def _prepare_rounding(self) -> None:
        """Look at what is gone when a search asks for `_rounding_losses`."""

    def _rounding_losses(self, precisions: list[str]) -> dict[tuple[Block, str], float]:
        """What each block is expected to lose in each of these precisions, at its dense width."""
        return rounding_losses(self.calibration, precisions, self.calibration.narrow)

    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        """See Method."""
        return [("selection and re-fit", self._select), ("block reconstruction", self._reconstruct)]

    def _stitch_(self, model: "PreTrainedModel", block: Block, kept: list[int]) -> None:
        """Give the output projection of `block` in `model` what its removal curve reckons with."""
        import torch

        dense, projection = output_projection(self.calibration.model, block), output_projection(model, block)
        found, device = self.moments.blocks[block], dense.weight.device
        covariance, mean = (torch.from_numpy(moment).to(device) for moment in (found.covariance, found.mean))
        leave_(projection, dense, columns_of(kept, block.unit_size).to(device), damped(covariance), mean.double())

    def _select(self, state: State) -> State:
        pruned = state.model
        pruned.load_state_dict(self.calibration.model.state_dict())  # the search's masks are only a first idea
        kept = {
            block: select_and_refit(streams, block, len(state.plan.units(block)), self.moments.blocks[block].sensitivity)
            for streams, block in self._walk(pruned, "selecting and re-fitting")
        }
        return State(Plan.of(self.signature, kept, state.plan.precisions), pruned)

    def _reconstruct(self, state: State) -> State:
        for streams, block in self._walk(state.model, "reconstructing blocks"):
            if state.plan.units(block):
                reconstruct(streams, block, state.plan, self.moments.blocks[block].sensitivity, self.calibration.seed)
        return state

    def _walk(self, pruned: "PreTrainedModel", description: str) -> Iterator[tuple[Streams, Block]]:
        """Every block in forward order, with the streams that have come to it."""
        calibration = self.calibration
        streams = Streams(calibration.model, pruned, calibration.samples, self.moments.weights)
        with calibration.progress.track(description, len(calibration.blocks)) as advance:
            for block in streams.blocks():
                yield streams, block
                advance()


def curve_of(model: "PreTrainedModel", block: Block, found: BlockMoments) -> Importance:
    """The removal curve of `block` in the dense `model`, computed where that is."""
    import torch

    weight = output_projection(model, block).weight
    moments = (found.covariance, found.sensitivity)
    covariance, sensitivity = (torch.from_numpy(moment).to(weight.device) for moment in moments)
    return removal_curve(weight, covariance, sensitivity, block.unit_size)
