"""The interface of every pruning method."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from prune2deploy.memory import Spilled
from prune2deploy.models.block import Block
from prune2deploy.models.logit_scale import factor_of, set_factor_
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.precisions import Rounding
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.statistics.calibrate import Calibration

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel


@dataclass
class State:
    """A plan, and the model that it is applied to: of dense shapes, dropped units masked. `notes`: what to tell.

    `roundings`: of the linear layers in a lower precision, by path, once they are rounded.
    """

    plan: Plan
    model: "PreTrainedModel"
    notes: list[str] = field(default_factory=list)
    roundings: dict[str, Rounding] = field(default_factory=dict)


Step = Callable[[State], State]


def undoable(state: State) -> Callable[[], State]:
    """What brings `state` back: steps work in place, and a copy in memory would take a third model's room."""
    weights = Spilled()
    for tensor in state.model.state_dict().values():
        weights.append(tensor)
    factor = factor_of(state.model)

    def undo() -> State:
        for tensor, before in zip(state.model.state_dict().values(), weights, strict=True):
            tensor.copy_(before)
        set_factor_(state.model, factor)
        return State(state.plan, state.model)

    return undo


class Method(ABC):
    """Chooses what goes (`search`), then improves on it in `steps`; statistics are taken once, in `__init__`."""

    name: ClassVar[str]
    reads_labels: ClassVar[bool] = True  # where the data has any
    on_gpu: ClassVar[bool] = False  # whether it can compute there
    equal_layers: ClassVar[bool] = False  # whether it only knows models of equal layers, an attention and an FFN each
    mixes: ClassVar[bool] = False  # whether its search chooses the precision of each block, too
    takes_effort: ClassVar[bool] = False  # whether its search goes on with the calibration's `effort`

    def __init__(self, calibration: Calibration):
        self.calibration = calibration
        self.signature = signature_of(calibration.model.config)

    @abstractmethod
    def search(self, costs: Costs, budget: float) -> Plan:
        """The plan within `budget` (in `costs.unit`); raises UnreachableBudgetError."""

    @abstractmethod
    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        """Named steps after the search; each keeps the widths and returns a better state."""

    @property
    def token_weights(self) -> "Mapping[Block, Sequence[np.ndarray]] | None":
        """What each token counts where blocks are fitted, as `Streams` takes it; None: all the same."""
        return None

    @property
    def labels(self) -> str:
        """Where the labels that statistics are taken with come from."""
        if not self.reads_labels:
            return "not used"
        samples, task = self.calibration.samples, self.calibration.task
        given = samples.batch([0]).labels
        return "given" if given is not None and task.targets(given) else "drawn from the dense model's own predictions"

    def masked(self, plan: Plan) -> "PreTrainedModel":
        """A copy of the dense model with everything that `plan` drops masked.

        It shares the dense model's embeddings, so no step may change them.
        """
        import copy

        from torch import nn

        from prune2deploy.models.surgery import mask_

        dense = self.calibration.model
        embeddings = [module.weight for module in dense.modules() if isinstance(module, nn.Embedding)]
        model = copy.deepcopy(dense, {id(shared): shared for shared in embeddings})
        mask_(model, plan)
        return model
