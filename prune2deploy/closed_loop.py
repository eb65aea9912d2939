"""All of it: profile where there is no table, prune, export, and go round again while the measured budget is missed."""

import hashlib
import shutil
from pathlib import Path

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.errors import BudgetMissedError, CheckFailedError, InputError
from prune2deploy.exporting.manifest import entry_name
from prune2deploy.exporting.stage import export
from prune2deploy.files import refuse_existing, sha256_of
from prune2deploy.models.checkpoint import (
    PrunedRecord,
    digest_of_model,
    load_config,
    read_pruned_record,
    resolve_model,
)
from prune2deploy.models.registry import family_of
from prune2deploy.profiling.stage import profile
from prune2deploy.profiling.table import check_matches, read_table, table_path
from prune2deploy.progress import Progress
from prune2deploy.pruning.fit import AIM
from prune2deploy.pruning.registry import DEFAULT_METHOD
from prune2deploy.pruning.stage import prune
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.registry import task_of
from prune2deploy.validation.record import Report

ATTEMPTS = 3
STEP = 0.012  # of the budget, by which the aim is lowered when the final measurement was above it


def run(
    project: Project, budget: Budget, repository: Path, name: str | None = None, method: str = DEFAULT_METHOD,
    max_loss: float | None = None, force: bool = False, progress: Progress | None = None,
) -> Report:
    """From a project and a budget to a validated package in `repository`.

    Interrupted, it goes on where it stopped: the table, calibration statistics, exported graphs and the pruned model
    are kept in the project's `.prune2deploy` until the package is there. Raises what the stages raise; CheckFailedError
    when the exported artifact misses its budget after a few rounds.
    """
    progress = progress or Progress()
    if budget.kind == "flops":
        raise InputError("run promises a measured latency: give --latency-ms or --speedup (prune takes --flops)")
    name = entry_name(name, project)
    refuse_existing(repository / name)
    table = ensure_table(project, progress)
    work = project.state / "run" / key_of(project, budget, method, table)
    for attempt in range(ATTEMPTS):
        pruned = work / f"pruned-{attempt}"
        if reusable(pruned, progress) is None:
            prune(project, budget, pruned, method=method, progress=progress, aim=AIM - STEP * attempt)
        last = attempt == ATTEMPTS - 1
        try:
            report = export(project, pruned, repository, name, max_loss=max_loss, progress=progress)
        except CheckFailedError as error:
            if isinstance(error, BudgetMissedError) and not last:
                progress.note(f"{error}; searching again with more margin")
                continue
            if not force:
                raise
            report = export(project, pruned, repository, name, max_loss=max_loss, force=True, progress=progress)
        shutil.rmtree(work, ignore_errors=True)
        return report
    raise AssertionError("the last attempt returns or raises")


def key_of(project: Project, budget: Budget, method: str, table: Path) -> str:
    """A name for one piece of work; another model, data set, table, budget or method gives another name."""
    data = project.resolve(project.data.path)
    parts = [
        digest_of_model(resolve_model(project.model, project.root)), sha256_of(data) if data.exists() else "",
        sha256_of(table), project.model_dump_json(), str(budget), method,
    ]  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def ensure_table(project: Project, progress: Progress) -> Path:
    """The latency table of this model on this device, measured where there is none that fits."""
    directory = resolve_model(project.model, project.root)
    config = load_config(directory)
    signature = family_of(config).signature(config)
    runtime = runtime_for(project.target)
    device, described = runtime.device(), runtime.describe()
    path = table_path(project.profiles, device, signature, described, project.target.precision)
    if path.is_file():
        table = read_table(path)
        try:
            check_matches(table, path, signature, project.workload, project.target, device, described)
        except InputError as error:
            progress.note(f"{error}; measuring it now")
        else:
            progress.note(f"latency table: {path}, measured {table.measured_at}")
            return path
    task = task_of(project, directory, config)  # data that cannot be used is better said before minutes of measuring
    task.evaluation()
    task.calibration(project.calibration.samples, project.calibration.seed)
    return profile(project, progress)[1]


def reusable(pruned: Path, progress: Progress) -> PrunedRecord | None:
    """The record of a pruned model that an interrupted run left behind."""
    if not pruned.exists():
        return None
    record = read_pruned_record(pruned)
    progress.note(f"going on with the pruned model that an earlier run left in {pruned}")
    return record
