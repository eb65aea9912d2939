"""K-prune (Park et al. 2024, "Accurate retraining-free pruning for pretrained encoder-based language models"), a baseline.

What is kept as it was: knowledge scores, without labels, over the cost of a unit; sublayer by sublayer from the bottom,
everything above is scored anew on the net as it is by then, one threshold for all that keeps to what is left of the
budget is found, and only this sublayer is pruned by it; then its whole output matrix is solved for by least squares, from
what the pruned prefix feeds it to what the dense model has in the residual stream behind it, with the bias as it is and
nothing that holds the weights; a sublayer that is gone takes its bias along.

What differs: costs are the table's, where theirs are FLOPs, so a unit costs the slope of `fit_cost`, and a block that
stays keeps what comes free with it, as in `kwon.py`. What is mended: least squares that have no single solution are
solved by the shortest one, where their code passes over the error and leaves the weights; the least unit does not go
where everything fits. Scores and the least squares between them are taken on up to 16,384 tokens of the calibration
samples (theirs: 100,000), the final ones on as many as every re-fit here. On the dense model the gradient of the
divergence is 0, so the first sublayer is judged by its representation alone: that is the published method.
"""

import copy
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import Projection, output_projection
from prune2deploy.models.surgery import silence_
from prune2deploy.pruning.methods.knowledge import Watched, knowledge
from prune2deploy.pruning.methods.kwon import LinearCost, fit_cost
from prune2deploy.pruning.methods.method import Method, State, Step
from prune2deploy.pruning.recovery.tuning import walk
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics
from prune2deploy.pruning.statistics.calibrate import Calibration, refuse_not_finite
from prune2deploy.pruning.statistics.lengths import thinned
from prune2deploy.pruning.statistics.streams import Streams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 16_384
SMALLEST = 1e-6  # of the largest eigenvalue of Σ x xᵀ: products in float32 say nothing of directions below


class KPruneMethod(Method):
    """Scores, prunes and re-fits one sublayer after the other."""

    name = "k-prune"
    reads_labels = False
    equal_layers = True

    def __init__(self, calibration: Calibration):
        super().__init__(calibration)
        tokens = min(TOKENS, calibration.samples.tokens_at_once)
        taken = thinned(calibration.model, calibration.samples, tokens)
        self.samples = calibration.samples.select(taken)

    def search(self, costs: Costs, budget: float) -> Plan:
        """See Method."""
        if budget < costs.fixed:
            raise UnreachableBudgetError(budget, costs.fixed, costs.unit)
        calibration = self.calibration
        prices = {block.curve: Price(costs, block) for block in calibration.blocks}
        pruned = copy.deepcopy(calibration.model)
        streams = Streams(calibration.model, pruned, self.samples)
        watched = [self._watched(part.indices) for part in streams.parts]
        kept: dict[Block, list[int]] = {}
        room = budget - costs.fixed
        with calibration.progress.track("pruning sublayer by sublayer", len(calibration.blocks)) as advance:
            for index, block in enumerate(streams.blocks()):
                above = calibration.blocks[index:]
                scores = knowledge(calibration.task, pruned, watched, streams.pruned_hidden, above)
                scores = {other: score / prices[other.curve].unit for other, score in scores.items()}
                width = threshold_widths(scores, prices, room)[block]
                kept[block] = sorted(np.argsort(-scores[block], kind="stable")[:width].tolist())
                room -= prices[block.curve].of[width]
                refit(block, kept[block], streams.statistics(block, kept[block]), output_projection(pruned, block))
                advance()
        return Plan.of(self.signature, kept)

    def _watched(self, indices: list[int]) -> Watched:
        import torch

        batch, calibration = self.samples.batch(indices), self.calibration
        with torch.no_grad():
            said = calibration.task.said(calibration.model, batch.tensors())
        refuse_not_finite(said, calibration.task)
        return Watched(batch, said)

    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        """See Method."""

        def refitting(state: State) -> State:
            calibration = self.calibration
            walk(
                calibration.model, state.model, state.plan, calibration.samples, refit, calibration.progress,
                "re-fitting sublayer by sublayer",
            )  # fmt: skip
            return state

        return [("sublayer-wise re-fit", refitting)]

    def masked(self, plan: Plan) -> "PreTrainedModel":
        """See Method; a block without any kept unit loses its bias too."""
        model = super().masked(plan)
        silence_(model, plan)
        return model


class Price:
    """What blocks of one curve cost. `of`: [units + 1], by width; `unit`: one more; `free`: units paid with the first."""

    def __init__(self, costs: Costs, block: Block):
        fit: LinearCost = fit_cost(costs, block)
        self.of = np.asarray([costs.block(block, width) for width in range(block.units + 1)])
        self.unit = max(fit.slope, 1e-15)
        self.free = fit.threshold

    def widths(self, counts: np.ndarray) -> np.ndarray:
        """`counts`, and with them what comes free."""
        return np.where(counts > 0, np.maximum(counts, self.free), 0)


def threshold_widths(scores: dict[Block, np.ndarray], prices: dict[str, Price], room: float) -> dict[Block, int]:
    """How many units of each block are above the lowest threshold on all scores at which all blocks cost at most `room`.

    Args:
        scores: [units] per block, of one scale.
        prices: by curve.
        room: 0 or more, but for rounding; in the unit of the costs.
    """
    thresholds = np.concatenate([[-np.inf], np.sort(np.concatenate(list(scores.values())))])
    widths = {}
    total = np.zeros(len(thresholds))
    for block, score in scores.items():
        counts = len(score) - np.searchsorted(np.sort(score), thresholds, side="right")
        widths[block] = prices[block.curve].widths(counts)
        total += prices[block.curve].of[widths[block]]
    lowest = int((total <= max(room, 0.0)).argmax())  # above the last one there is nothing, and that is free
    return {block: int(width[lowest]) for block, width in widths.items()}


def refit(block: Block, kept: list[int], statistics: BlockStatistics, projection: Projection) -> None:
    """Set, in place, `projection` to the least squares over the columns of `kept`; without any, to nothing at all."""
    import torch

    bias = projection.bias
    with torch.no_grad():
        if bias is not None and not kept:
            bias.zero_()
        fixed = np.zeros(projection.out_features) if bias is None else bias.double().numpy()
        weight = torch.from_numpy(least_squares(statistics, fixed)).to(projection.weight.dtype)
        projection.weight.zero_()
        projection.weight[:, columns_of(kept, block.unit_size)] = weight


def least_squares(statistics: BlockStatistics, bias: np.ndarray) -> np.ndarray:
    """V, [d, k], minimising Σ‖y − bias − V x‖²; the shortest one where inputs leave directions open."""
    if not len(statistics.xx):
        return np.zeros((len(bias), 0))
    values, vectors = np.linalg.eigh(statistics.xx.numpy())
    seen = values > SMALLEST * values[-1]
    target = statistics.xy.numpy() - np.outer(statistics.x_sum.numpy(), bias)
    return ((vectors[:, seen] / values[seen]) @ (vectors[:, seen].T @ target)).T
