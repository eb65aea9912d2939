"""Is the whole the sum of its blocks? Fit the fixed part on whole models, then test on plans not seen."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import ContradictionError
from prune2deploy.graphs.onnx_model import example_inputs, export_onnx
from prune2deploy.models.block import Block
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.models.table import Curve
from prune2deploy.profiling.kept import Kept
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Engine, Runtime
from prune2deploy.runtimes.measure import Timing, interleaved
from prune2deploy.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FITTED = 4  # random plans that the fixed part is fitted on, beside the dense and the empty model
UNSEEN = 6  # random plans that the table is tested on
ROUNDS = 40
PADDING_ROUNDS = 20
Widths = dict[Block, int]


class WholeModels:
    """Whole models of random plans, built once and timed at every workload point. The first is the dense one."""

    def __init__(
        self, model: "PreTrainedModel", task: Task, runtime: Runtime, grids: dict[str, list[int]], dense: Path,
        directory: Path, progress: Progress, seed: int, kept: Kept,
    ):
        from prune2deploy.graphs.onnx_model import exported_form
        from prune2deploy.graphs.reweigh import Template
        from prune2deploy.models.surgery import shrunk

        self.task = task
        self.blocks = blocks_of(model)
        self.progress = progress
        self.kept = kept
        self.plans = random_plans(self.blocks, grids, FITTED + UNSEEN, seed)
        signature = signature_of(model.config)
        self.engines: list[Engine] = []
        template = Template(dense, exported_form(model, task), example_inputs(task))
        with progress.track("building whole models", len(self.plans)) as advance:
            for widths in self.plans:
                path = directory / f"whole-{fingerprint(widths)}.onnx"
                if not path.exists():
                    slim = shrunk(model, Plan.of(signature, {block: range(width) for block, width in widths.items()}))
                    if not template.write(exported_form(slim, task), path):
                        export_onnx(slim, task, path)
                self.engines.append(runtime.build(path))
                advance()

    def timings(self, point: WorkloadPoint) -> list[Timing]:
        """Measured latency of each of `plans`, against the dense model."""
        names = [f"{index}-{fingerprint(widths)}" for index, widths in enumerate(self.plans)]
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


def random_plans(blocks: list[Block], grids: dict[str, list[int]], count: int, seed: int) -> list[Widths]:
    """The dense plan, the empty one, and `count` random ones from light to heavy, with blocks vanished among them."""
    rng = np.random.default_rng(seed)
    plans: list[Widths] = [{block: block.units for block in blocks}, dict.fromkeys(blocks, 0)]
    for index in range(count):
        share = 0.15 + 0.75 * ((index * 7) % count) / max(1, count - 1)  # fitted and unseen plans both span the range
        vanishing = 0.2 if index % 2 else 0.0
        plan = {}
        for block in blocks:
            wanted = np.clip(rng.normal(share, 0.25), 0.01, 1) * block.units
            choices = [0] if rng.random() < vanishing else grids[block.curve][1:]
            plan[block] = min(choices, key=lambda width: abs(width - wanted))
        plans.append(plan)
    return plans


def fingerprint(widths: Widths) -> str:
    """A name for these widths that is short enough for a file."""
    import hashlib

    return hashlib.sha256(str(sorted((block.key, width) for block, width in widths.items())).encode()).hexdigest()[:12]


def block_sum(widths: Widths, curves: dict[str, Curve]) -> float:
    """Milliseconds of all blocks at these widths."""
    return sum(block.calls * curves[block.curve].at(width) for block, width in widths.items())


def fit_fixed(plans: list[Widths], measured_ms: list[float], curves: dict[str, Curve]) -> tuple[float, float]:
    """(fixed_ms, scale) that minimise the relative error of fixed_ms + scale · Σ blocks over `plans`.

    Both come from whole models: the empty model alone misses what blocks cost each other in caches and scheduling. Raises
    ContradictionError where either comes out at nothing or less.
    """
    measured = np.asarray(measured_ms)
    columns = np.stack([np.ones(len(plans)), [block_sum(widths, curves) for widths in plans]], axis=1)
    (fixed, scale), *_ = np.linalg.lstsq(columns / measured[:, None], np.ones(len(plans)), rcond=None)
    if min(round(float(fixed), 6), round(float(scale), 5)) <= 0:  # as a table has them
        raise ContradictionError(
            "whole models do not take what their blocks add up to: by the best fit, what cannot be pruned takes "
            f"{fixed:.3g} ms, and blocks {scale:.3g} times what they were measured at; run this again when the machine is "
            "quiet"
        )
    return float(fixed), float(scale)


def scaled(curve: Curve, scale: float) -> Curve:
    """`curve` with every time multiplied by `scale`."""
    return curve.model_copy(update={
        "ms": [round(ms * scale, 6) for ms in curve.ms],
        "standard_error_ms": [round(ms * scale, 6) for ms in curve.standard_error_ms],
    })  # fmt: skip


def widths_by_kind(widths: Widths) -> dict[str, list[int]]:
    """Widths per kind in layer order, for a person to read."""
    kinds = dict.fromkeys(block.kind for block in widths)
    return {kind: [width for block, width in widths.items() if block.kind == kind] for kind in kinds}
