"""The profile stage: from a project to a latency table in its `profiles/`."""

import datetime
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.config import Project, WorkloadPoint
from prune2deploy.files import sha256_of, write_record
from prune2deploy.graphs.onnx_model import dense_onnx, export_key
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import digest_of_model, load_dense, resolve_model
from prune2deploy.models.signature import signature_of
from prune2deploy.models.table import Curve, LatencyTable, PlanCheck, PointTable, refuse_noisy, table_path
from prune2deploy.profiling.additivity import (
    FITTED,
    WholeModels,
    block_sum,
    fit_fixed,
    scaled,
    widths_by_kind,
)
from prune2deploy.profiling.kept import Kept, circumstances
from prune2deploy.profiling.stacks import Stacks
from prune2deploy.profiling.sweep import Sweep
from prune2deploy.progress import Progress
from prune2deploy.provenance import remove_stale, versions
from prune2deploy.runtimes.base import Runtime, Shapes
from prune2deploy.runtimes.measure import Timing
from prune2deploy.runtimes.nvml import GpuWatch
from prune2deploy.runtimes.quiet import patient
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.base import Task
from prune2deploy.tasks.registry import task_of
from prune2deploy.team import refuse_team

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@alone
@patient
def profile(project: Project, progress: Progress | None = None) -> tuple[LatencyTable, Path]:
    """Measure the latency table of the project's model on this machine, and write it.

    Returns the table and its path. Raises InputError where the project cannot be used here, and
    UnstableMeasurementError where the machine is too noisy for a table that keeps its promises.
    """
    refuse_team("profile")
    progress = progress or Progress()
    start = time.monotonic()
    directory = resolve_model(project.model, project.root)
    model = load_dense(directory)
    signature = signature_of(model.config)
    task = task_of(project, directory, model.config)
    runtime = runtime_for(project.target, Shapes(project.workload, task.axis_limits()), project.state)

    key = export_key(sha256_of(directory / "config.json"), task)
    graphs = project.state / "graphs" / f"{signature.name}-{key}"
    remove_stale(graphs.parent, f"{signature.name}-*", graphs)
    graphs.mkdir(parents=True, exist_ok=True)
    dense = dense_onnx(model, task, project.state / "dense", digest_of_model(directory))
    gpu = GpuWatch() if project.target.device == "gpu" else None
    made_with = circumstances(runtime, project.target, project.workload, digest_of_model(directory))
    kept = Kept(graphs / "timings", made_with, progress)
    with gpu or nullcontext(), kept:
        points, checks, spreads = measure(project, model, task, runtime, dense, graphs, progress, kept)
    table = LatencyTable(
        signature=signature, device=runtime.device(), runtime=runtime.describe(), precision=project.target.precision,
        points=points, checks=checks, median_error=round(float(np.median([abs(check.error) for check in checks])), 5),
        reference_spread=round(max(spreads), 5),
        measured_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - start, 1), load_average=round(os.getloadavg()[0], 2), versions=versions(),
        gpu=gpu.some() if gpu else [],
    )  # fmt: skip
    with kept:
        refuse_noisy(table)
    path = table_path(project.profiles, table.device, signature, table.runtime, table.precision)
    write_record(path, table)
    shutil.rmtree(graphs, ignore_errors=True)
    return table, path


def measure(
    project: Project, model: "PreTrainedModel", task: Task, runtime: Runtime, dense: Path, graphs: Path, progress: Progress,
    kept: Kept,
) -> tuple[list[PointTable], list[PlanCheck], list[float]]:
    """(tables of all workload points, how well they predict plans not seen, spreads of the dense model's rounds)."""
    found = {
        curve: Sweep(
            Stacks(model, task, curve, graphs), runtime, project.target.precision, shape.units, progress, kept
        ).curve(project.workload)
        for curve, shape in signature_of(model.config).curves.items()
    }
    grids = {curve: at_points[0].widths for curve, at_points in found.items()}
    whole = WholeModels(model, task, runtime, grids, dense, graphs, progress, project.calibration.seed, kept)
    points, checks, spreads = [], [], []
    for index, point in enumerate(project.workload):
        timings = whole.timings(point)
        spreads.append(timings[0].own_spread)
        at_point = {curve: at_points[index] for curve, at_points in found.items()}
        entry, unseen = fit_point(point, at_point, whole, timings)
        cost = whole.padding_cost(point)
        points.append(entry.model_copy(update={"padding_cost": None if cost is None else round(cost, 4)}))
        checks.extend(unseen)
    return points, checks, spreads


def fit_point(
    point: WorkloadPoint, curves: dict[str, Curve], whole: WholeModels, timings: list[Timing]
) -> tuple[PointTable, list[PlanCheck]]:
    """The table of one workload point, and how well it predicts the plans it was not fitted on."""
    fitted = 2 + FITTED  # the dense and the empty model come first
    measured = [timing.median_ms for timing in timings]
    fixed, scale = fit_fixed(whole.plans[:fitted], measured[:fitted], curves)
    final = {name: scaled(curve, scale) for name, curve in curves.items()}
    checks = []
    for widths, measured_ms in zip(whole.plans[fitted:], measured[fitted:], strict=True):
        predicted = fixed + block_sum(widths, final)
        checks.append(PlanCheck(
            point=str(point), widths=widths_by_kind(widths), predicted_ms=round(predicted, 4),
            measured_ms=round(measured_ms, 4), error=round(predicted / measured_ms - 1, 5),
        ))  # fmt: skip
    entry = PointTable(
        point=point, fixed_ms=round(fixed, 6), fixed_alone_ms=round(measured[1], 6), dense_ms=round(measured[0], 6),
        block_scale=round(scale, 5),
        curves={name: [curve] for name, curve in final.items()},
    )  # fmt: skip
    return entry, checks
