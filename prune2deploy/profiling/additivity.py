"""Is the whole the sum of its blocks? Fit the fixed part on whole models, then test on plans not seen."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import ContradictionError
from prune2deploy.graphs.onnx_model import example_inputs, export_onnx
from prune2deploy.models.block import Block
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.precisions import quantise_for_timing
from prune2deploy.models.signature import Signature, signature_of
from prune2deploy.models.table import Curve
from prune2deploy.profiling.kept import Kept
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Engine, Runtime
from prune2deploy.runtimes.measure import Timing, interleaved
from prune2deploy.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FITTED = 4  # random plans that the fixed part is fitted on, beside the dense and the empty model
MIXED = 4  # more of them, where blocks differ in precision
UNSEEN = 6  # random plans that the table is tested on
ROUNDS = 40
PADDING_ROUNDS = 20
Choice = tuple[int, str | None]  # a width, and a precision that is not the engine's own
Choices = dict[Block, Choice]


class WholeModels:
    """Whole models of random plans, built once and timed at every workload point. The first is the dense one."""

    def __init__(
        self, model: "PreTrainedModel", task: Task, runtime: Runtime, grids: dict[str, dict[str | None, list[int]]],
        dense: Path, directory: Path, progress: Progress, seed: int, kept: Kept,
    ):
        """`grids`: of each curve, the widths that were measured in each precision."""
        from prune2deploy.graphs.onnx_model import exported_form
        from prune2deploy.graphs.reweigh import Template
        from prune2deploy.models.surgery import shrunk

        self.task = task
        self.blocks = blocks_of(model)
        self.progress = progress
        self.kept = kept
        self.fitted = FITTED + (MIXED if any(len(of_curve) > 1 for of_curve in grids.values()) else 0)
        self.plans = random_plans(self.blocks, grids, self.fitted + UNSEEN, seed)
        signature = signature_of(model.config)
        self.engines: list[Engine] = []
        template = Template(dense, exported_form(model, task), example_inputs(task))
        with progress.track("building whole models", len(self.plans)) as advance:
            for choices in self.plans:
                path = directory / f"whole-{fingerprint(choices)}.onnx"
                if not path.exists():
                    plan = plan_of(signature, choices)
                    slim = shrunk(model, plan)
                    if not template.write(exported_form(slim, task), path):
                        export_onnx(slim, task, path)
                    quantise_for_timing(path, exported_form(slim, task), plan, self.blocks, runtime.narrow)
                self.engines.append(runtime.build(path))
                advance()

    def timings(self, point: WorkloadPoint) -> list[Timing]:
        """Measured latency of each of `plans`, against the dense model."""
        names = [f"{index}-{fingerprint(choices)}" for index, choices in enumerate(self.plans)]
        timings = self.kept.timings("whole models", names, point, ROUNDS, lambda: self._measured(names, point))
        return [timings[name] for name in names]

    def _measured(self, names: list[str], point: WorkloadPoint) -> dict[str, Timing]:
        inputs = self.task.timing_inputs(point.batch, point.seq_len)
        runs = {name: engine.timed(inputs) for name, engine in zip(names, self.engines, strict=True)}
        description, watch = f"timing whole models at {point}", self.engines[0].watch()
        return interleaved(runs, names[0], ROUNDS, self.progress, description, watch=watch)

    def padding_cost(self, point: WorkloadPoint) -> float | None:
        """By what share one padded token in every row slows the dense model down; None where nothing can be padded."""
        full, padded = (make(1, point.seq_len) for make in (self.task.timing_inputs, self.task.synthetic_inputs))
        if all(np.array_equal(full[name], padded[name]) for name in full):
            return None
        dense = self.engines[0]
        rows = {"full": full, "padded": padded}
        runs = {
            name: dense.timed({key: np.repeat(row, point.batch, axis=0) for key, row in inputs.items()})
            for name, inputs in rows.items()
        }
        description = f"timing padding at {point}"
        timings = interleaved(runs, "full", PADDING_ROUNDS, self.progress, description, watch=dense.watch())
        return timings["padded"].ratio - 1


def random_plans(
    blocks: list[Block], grids: dict[str, dict[str | None, list[int]]], count: int, seed: int
) -> list[Choices]:
    """The dense plan, the empty one, and `count` random ones from light to heavy, with blocks vanished among them.

    The random ones mix whatever precisions there are.
    """
    rng = np.random.default_rng(seed)
    plans: list[Choices] = [{block: (block.units, None) for block in blocks}, dict.fromkeys(blocks, (0, None))]
    for index in range(count):
        share = 0.15 + 0.75 * ((index * 7) % count) / max(1, count - 1)  # fitted and unseen plans both span the range
        vanishing = 0.2 if index % 2 else 0.0
        plan: Choices = {}
        for block in blocks:
            wanted = np.clip(rng.normal(share, 0.25), 0.01, 1) * block.units
            vanishes, grid = rng.random() < vanishing, grids[block.curve]
            precision = list(grid)[rng.integers(len(grid))] if len(grid) > 1 else None
            width = 0 if vanishes else min(grid[precision][1:], key=lambda width: abs(width - wanted))
            plan[block] = (width, precision if width else None)
        plans.append(plan)
    return plans


def plan_of(signature: Signature, choices: Choices) -> Plan:
    """The plan that makes these choices, and keeps the first units of each block."""
    kept = {block: range(width) for block, (width, _) in choices.items()}
    return Plan.of(signature, kept, {block.key: lower for block, (_, lower) in choices.items() if lower})


def fingerprint(choices: Choices) -> str:
    """A name for these choices that is short enough for a file."""
    import hashlib

    said = sorted((block.key, width, *([lower] if lower else [])) for block, (width, lower) in choices.items())
    return hashlib.sha256(str(said).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Fit:
    """What is fitted on whole models. `scale`: of what blocks take; `change_ms`: of a change of precision."""

    fixed_ms: float
    scale: float
    change_ms: float

    def predict(self, choices: Choices, curves: Mapping[str, Sequence[Curve]]) -> float:
        """Milliseconds of the model with these choices."""
        return self.fixed_ms + self.scale * block_sum(choices, curves) + self.change_ms * changes(choices)


def block_sum(choices: Choices, curves: Mapping[str, Sequence[Curve]]) -> float:
    """Milliseconds of all blocks. `curves`: by name, the engine's own precision first."""
    return sum(block.calls * _curve(curves[block.curve], lower).at(width) for block, (width, lower) in choices.items())


def _curve(curves: Sequence[Curve], precision: str | None) -> Curve:
    return next(curve for curve in curves if precision in (None, curve.precision))


def changes(choices: Choices) -> int:
    """How often a block is followed by one in another precision."""
    there = [lower for width, lower in choices.values() if width]
    return sum(before != after for before, after in itertools.pairwise(there))


def fit_fixed(plans: list[Choices], measured_ms: list[float], curves: Mapping[str, Sequence[Curve]]) -> Fit:
    """The fit that minimises the relative error of fixed_ms + scale · Σ blocks + change_ms · changes over `plans`.

    All come from whole models: the empty model alone misses what blocks cost each other in caches and scheduling. Raises
    ContradictionError where the fixed part or the scale comes out at nothing or less.
    """
    from scipy.optimize import lsq_linear

    measured = np.asarray(measured_ms)
    columns = np.stack(
        [np.ones(len(plans)), [block_sum(each, curves) for each in plans], [changes(each) for each in plans]], axis=1
    )
    lowest = [-np.inf, -np.inf, 0.0]  # nothing is saved by a change
    used = 2 + int(columns[:, 2].any())
    found = lsq_linear(
        columns[:, :used] / measured[:, None], np.ones(len(plans)), (lowest[:used], np.inf), method="bvls",
    ).x
    fixed, scale, change = (float(value) for value in [*found, 0.0][:3])
    if min(round(fixed, 6), round(scale, 5)) <= 0:  # as a table has them
        raise ContradictionError(
            "whole models do not take what their blocks add up to: by the best fit, what cannot be pruned takes "
            f"{fixed:.3g} ms, and blocks {scale:.3g} times what they were measured at; run this again when the machine is "
            "quiet"
        )
    return Fit(fixed, scale, max(change, 0.0))


def scaled(curve: Curve, scale: float) -> Curve:
    """`curve` with every time multiplied by `scale`."""
    return curve.model_copy(update={
        "ms": [round(ms * scale, 6) for ms in curve.ms],
        "standard_error_ms": [round(ms * scale, 6) for ms in curve.standard_error_ms],
    })  # fmt: skip


def by_kind(choices: Choices, own: str) -> tuple[dict[str, list[int]], dict[str, list[str]]]:
    """(widths, precisions where they differ) per kind in layer order, for a person to read."""
    kinds = dict.fromkeys(block.kind for block in choices)
    widths = {kind: [width for block, (width, _) in choices.items() if block.kind == kind] for kind in kinds}
    if not any(lower for _, lower in choices.values()):
        return widths, {}
    return widths, {kind: [lower or own for block, (_, lower) in choices.items() if block.kind == kind] for kind in kinds}
