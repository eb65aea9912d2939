"""Kwon et al. 2022 as published, the baseline, with its two faults in the latency search and its silent stop mended.

What is kept as it was: gradients averaged over mini-batches of 32, latency fitted as flat and then linear, units ranked
across layers, tuning toward a teacher pruned half as much, LSMR with damping 1 on the normal equations, the first
attention left untuned, the last FFN tuned on the first token, scales beyond 10 refused. What is mended: the budget is
not overwritten inside the loop over dropped blocks, units of dropped blocks cannot be picked, and a block whose tuning
is refused is named and left at 1 instead of ending all tuning.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import lsmr

from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.block import Block, columns_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import output_projection
from prune2deploy.models.signature import Signature
from prune2deploy.pruning.methods.method import Method, State, Step
from prune2deploy.pruning.recovery.rearrange import rearrange
from prune2deploy.pruning.search.costs import Costs, FlopCosts
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics
from prune2deploy.pruning.statistics.calibrate import Calibration, mask_gradients
from prune2deploy.pruning.statistics.streams import Streams

KINDS = ("attention", "ffn")  # the two kinds of block that the search is about
MINI_BATCH = 32
LARGEST_SCALE = 10.0


@dataclass(frozen=True)
class LinearCost:
    """Cost of a block of width w > 0: `base` up to `threshold` units, then `slope` for each further one."""

    base: float
    threshold: int
    slope: float


class KwonMethod(Method):
    """Global ranking by diagonal Fisher information, rearrangement, mask tuning by LSMR."""

    name = "kwon"
    equal_layers = True

    def __init__(self, calibration: Calibration):
        super().__init__(calibration)
        self.fisher = mini_batch_fisher(calibration)
        self.scores = {block: matrix.diagonal().astype(np.float64) for block, matrix in self.fisher.items()}

    def search(self, costs: Costs, budget: float) -> Plan:
        """See Method."""
        return global_plan(self.signature, self.scores, costs, budget)

    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        """See Method; the teacher is pruned to the square root of the share that the budget is of the dense model."""
        dense = costs.total({block: block.units for block in self.scores})
        teacher = self.search(costs, dense * float(np.sqrt(min(1.0, budget / dense))))

        def rearranging(state: State) -> State:
            plan = self._rearranged(state.plan)
            return State(plan, self.masked(plan))

        def tuning(state: State) -> State:
            notes = self._tune(state, self._rearranged(teacher))
            return State(state.plan, state.model, notes)

        return [("rearrangement", rearranging), ("mask tuning", tuning)]

    def _rearranged(self, plan: Plan) -> Plan:
        return Plan.of(self.signature, {b: rearrange(matrix, plan.units(b)) for b, matrix in self.fisher.items()})

    def _tune(self, state: State, teacher: Plan) -> list[str]:
        import torch

        calibration = self.calibration
        streams = Streams(self.masked(teacher), state.model, calibration.samples)
        blocks = calibration.blocks
        last, notes = max(block.layer for block in blocks), []
        with calibration.progress.track("tuning masks", len(blocks)) as advance:
            for block in streams.blocks():
                advance()
                kept = state.plan.units(block)
                if not kept or (block.layer, block.kind) == (0, "attention"):
                    continue
                first_only = (block.layer, block.kind) == (last, "ffn") and calibration.task.reads_first_token
                statistics = streams.statistics(block, kept, first_only)
                projection = output_projection(state.model, block)
                columns = columns_of(kept, block.unit_size)
                weight = projection.weight[:, columns].double().numpy()
                bias = np.zeros(len(weight)) if projection.bias is None else projection.bias.double().numpy()
                scales = lsmr_scales(statistics, weight, bias, block)
                if np.abs(scales).max() > LARGEST_SCALE:
                    notes.append(f"{block}: left untuned, a scale of {np.abs(scales).max():.1f} came out")
                    continue
                with torch.no_grad():
                    scaled = weight * np.repeat(scales, block.unit_size)
                    projection.weight[:, columns] = torch.from_numpy(scaled).to(projection.weight.dtype)
        return notes


def mini_batch_fisher(calibration: Calibration) -> dict[Block, np.ndarray]:
    """[units, units] per block: Σ over mini-batches of the outer product of the mean loss's gradient."""
    samples = calibration.samples
    order = np.random.default_rng(calibration.seed).permutation(len(samples)).tolist()
    starts = range(0, len(samples), MINI_BATCH)
    batches = ((start, samples.batch(order[start : start + MINI_BATCH])) for start in starts)
    fisher = {block: np.zeros((block.units, block.units), dtype=np.float32) for block in calibration.blocks}
    for gradients in mask_gradients(calibration, batches, len(starts)):
        for block, gradient in gradients.items():
            mean = gradient.mean(0).numpy()
            fisher[block] += np.outer(mean, mean)
    return fisher


def fit_cost(costs: Costs, block: Block) -> LinearCost:
    """The flat-then-linear cost nearest to the measured one of `block` in least squares."""
    widths = np.asarray(costs.widths(block)[1:])
    values = np.asarray([costs.block(block, int(width)) for width in widths])
    if isinstance(costs, FlopCosts):
        return LinearCost(0.0, 0, costs.per_unit[block])
    best, fitted = np.inf, LinearCost(float(values.mean()), int(widths[-1]), 0.0)
    for threshold in widths[:-1]:
        columns = np.stack([np.ones(len(widths)), np.maximum(0, widths - threshold)], axis=1)
        solution, *_ = np.linalg.lstsq(columns, values, rcond=None)
        error = float(np.square(columns @ solution - values).sum())
        if error < best:
            best, fitted = error, LinearCost(float(solution[0]), int(threshold), float(solution[1]))
    return fitted


def global_plan(signature: Signature, scores: dict[Block, np.ndarray], costs: Costs, budget: float) -> Plan:
    """The plan that `global_search` finds; raises UnreachableBudgetError where nothing fits."""
    kept = global_search(scores, costs, budget)
    if kept is None:
        raise UnreachableBudgetError(budget, costs.fixed, costs.unit)
    return Plan.of(signature, kept)


def global_search(scores: dict[Block, np.ndarray], costs: Costs, budget: float) -> dict[Block, list[int]] | None:
    """The units of largest total score within `budget`; None where nothing fits.

    For every number of dropped attention and FFN blocks, the least important ones go first; the rest keep their
    `threshold` best units, which cost nothing beyond the base; then for every number of further heads, the best of all
    layers are taken and the remaining budget is filled with the best filters.
    """
    fits = {kind: fit_cost(costs, next(block for block in scores if block.kind == kind)) for kind in KINDS}
    ranked = {kind: _by_first_units(scores, kind, fits[kind].threshold) for kind in KINDS}
    best, picked = -np.inf, None
    for heads_in in range(len(ranked["attention"]) + 1):
        for ffns_in in range(len(ranked["ffn"]) + 1):
            room = budget - costs.fixed - heads_in * fits["attention"].base - ffns_in * fits["ffn"].base
            if room < 0:
                continue
            blocks = {"attention": ranked["attention"][:heads_in], "ffn": ranked["ffn"][:ffns_in]}
            free = sum(_first(scores[b], fits[b.kind].threshold).sum() for kind in KINDS for b in blocks[kind])
            more = {kind: _further(scores, blocks[kind], fits[kind].threshold) for kind in KINDS}
            heads = np.arange(len(more["attention"]) + 1)
            left = room - heads * fits["attention"].slope
            filters = np.floor(left / max(fits["ffn"].slope, 1e-15) + 1e-9)
            filters = np.clip(filters, -1, len(more["ffn"])).astype(int)
            sums = {kind: np.concatenate([[0.0], np.cumsum([score for score, *_ in more[kind]])]) for kind in KINDS}
            totals = np.where(filters >= 0, free + sums["attention"] + sums["ffn"][np.maximum(filters, 0)], -np.inf)
            n = int(totals.argmax())
            if totals[n] > best:
                best = float(totals[n])
                extra = more["attention"][:n] + more["ffn"][: filters[n]]
                picked = _units(scores, blocks, fits, extra)
    return picked


def _first(score: np.ndarray, count: int) -> np.ndarray:
    return np.sort(score)[::-1][:count]


def _by_first_units(scores: dict[Block, np.ndarray], kind: str, threshold: int) -> list[Block]:
    """Blocks of `kind`, the one with the most important first units first."""
    blocks = [block for block in scores if block.kind == kind]
    return sorted(blocks, key=lambda block: -float(_first(scores[block], max(threshold, 1)).sum()))


def _further(scores: dict[Block, np.ndarray], blocks: list[Block], threshold: int) -> list[tuple[float, Block, int]]:
    """(score, block, unit) beyond each block's free units, the best of all blocks first."""
    found: list[tuple[float, Block, int]] = []
    for block in blocks:
        order = np.argsort(-scores[block], kind="stable")[threshold:]
        found.extend((float(scores[block][unit]), block, int(unit)) for unit in order)
    return sorted(found, key=lambda entry: -entry[0])


def _units(
    scores: dict[Block, np.ndarray], blocks: dict[str, list[Block]], fits: dict[str, LinearCost],
    extra: list[tuple[float, Block, int]],
) -> dict[Block, list[int]]:
    kept: dict[Block, list[int]] = {block: [] for block in scores}
    for kind in KINDS:
        for block in blocks[kind]:
            kept[block] = np.argsort(-scores[block], kind="stable")[: fits[kind].threshold].tolist()
    for _, block, unit in extra:
        kept[block].append(unit)
    return kept


def lsmr_scales(statistics: BlockStatistics, weight: np.ndarray, bias: np.ndarray, block: Block) -> np.ndarray:
    """[units]: 1 + the LSMR solution, damped by 1, of the normal equations for y − bias − Σ_u W_u x_u.

    Attention has one more column, a constant, which is solved for and then left out, as published.
    """
    units, size = weight.shape[1] // block.unit_size, block.unit_size
    x_sum, xx, xy = (total.numpy() for total in (statistics.x_sum, statistics.xx, statistics.xy))
    normal = (xx * (weight.T @ weight)).reshape(units, size, units, size).sum((1, 3))
    target = xy - np.outer(x_sum, bias)
    right = (target * weight.T).reshape(units, size, -1).sum((1, 2)) - normal.sum(1)
    if block.kind == "attention":
        constant = (x_sum * weight.sum(0)).reshape(units, size).sum(1)
        width = len(weight)
        normal = np.block([[normal, constant[:, None]], [constant[None, :], np.full((1, 1), statistics.n * width)]])
        last = float(statistics.y_sum.sum()) - statistics.n * bias.sum() - constant.sum()
        right = np.append(right, last)
    solution = lsmr(normal, right, damp=1.0, maxiter=5 * len(normal))[0]
    return 1.0 + solution[:units]
