"""Fisher pruning: Kwon et al. 2022 with per-sample gradients, an exact search, and a re-fit after mask tuning."""

from prune2deploy.models.plan import Plan
from prune2deploy.pruning.methods.method import Method, State, Step
from prune2deploy.pruning.recovery.rearrange import rearrange
from prune2deploy.pruning.recovery.refit import refit
from prune2deploy.pruning.recovery.tuning import tune_masks
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.search.knapsack import plan_within
from prune2deploy.pruning.statistics.calibrate import Calibration, Fisher, fisher_information
from prune2deploy.pruning.statistics.importance import fisher_importance


class FisherMethod(Method):
    """Knapsack over the measured table, then rearrangement, mask tuning and re-fit."""

    name = "fisher"

    def __init__(self, calibration: Calibration):
        super().__init__(calibration)
        self.fisher = fisher_information(calibration)
        self.importance = fisher_importance(self.fisher.diagonal)

    def search(self, costs: Costs, budget: float) -> Plan:
        """See Method."""
        return plan_within(self.signature, self.importance, costs, budget)

    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        """See Method."""
        return [("rearrangement", self._rearrange), ("mask tuning", self._tune), ("re-fit", self._refit)]

    def _rearrange(self, state: State) -> State:
        plan = rearranged(self.fisher, state.plan)
        return State(plan, self.masked(plan))

    def _tune(self, state: State) -> State:
        calibration = self.calibration
        tune_masks(calibration.model, state.model, state.plan, calibration.samples, calibration.progress)
        return state

    def _refit(self, state: State) -> State:
        calibration = self.calibration
        refit(calibration.model, state.model, state.plan, calibration.samples, calibration.progress)
        return state


def rearranged(fisher: Fisher, plan: Plan) -> Plan:
    """`plan` with every block's units rearranged."""
    kept = {block: rearrange(matrix, plan.units(block)) for block, matrix in fisher.matrix.items()}
    return Plan.of(plan.signature, kept)
