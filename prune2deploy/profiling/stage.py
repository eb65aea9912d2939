"""The profile stage: from a project to a latency table in its `profiles/`."""

import datetime
import itertools
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
from prune2deploy.profiling.additivity import WholeModels, by_kind, fit_fixed, scaled
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
    target = project.target
    found = {
        curve: Sweep(
            Stacks(model, task, curve, graphs), runtime, target.own_precision, shape.units, progress, kept
        ).curves(project.workload, target.block_precisions)
        for curve, shape in signature_of(model.config).curves.items()
    }
    grids = {curve: grids_of(at_points[0]) for curve, at_points in found.items()}
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
    point: WorkloadPoint, curves: dict[str, list[Curve]], whole: WholeModels, timings: list[Timing]
) -> tuple[PointTable, list[PlanCheck]]:
    """The table of one workload point, and how well it predicts the plans it was not fitted on."""
    fitted = 2 + whole.fitted  # the dense and the empty model come first
    measured = [timing.median_ms for timing in timings]
    fit = fit_fixed(whole.plans[:fitted], measured[:fitted], curves)
    precisions = list(dict.fromkeys(curve.precision for of_name in curves.values() for curve in of_name))
    checks = []
    for choices, measured_ms in zip(whole.plans[fitted:], measured[fitted:], strict=True):
        predicted = fit.predict(choices, curves)
        widths, lower = by_kind(choices, precisions[0])
        checks.append(PlanCheck(
            point=str(point), widths=widths, precisions=lower, predicted_ms=round(predicted, 4),
            measured_ms=round(measured_ms, 4), error=round(predicted / measured_ms - 1, 5),
        ))  # fmt: skip
    change = round(fit.change_ms, 6)
    entry = PointTable(
        point=point, fixed_ms=round(fit.fixed_ms, 6), fixed_alone_ms=round(measured[1], 6), dense_ms=round(measured[0], 6),
        block_scale=round(fit.scale, 5),
        curves={name: [scaled(curve, fit.scale) for curve in of_name] for name, of_name in curves.items()},
        change_ms={f"{a}>{b}": change for a, b in itertools.permutations(precisions, 2)} if change else {},
    )  # fmt: skip
    return entry, checks


def grids_of(curves: list[Curve]) -> dict[str | None, list[int]]:
    """The widths that a curve was measured at in each precision; None: in the engine's own."""
    own, *lower = curves
    return {None: own.widths, **{curve.precision: curve.widths for curve in lower}}
