"""The compare stage: what people use instead of pruning, and ours, built and measured in one interleaved run."""

import datetime
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prune2deploy.comparison.contenders import CALIBRATION, Built, Contender, contenders_of
from prune2deploy.comparison.record import Comparison, Row
from prune2deploy.config import Project
from prune2deploy.errors import InputError, MissingPackageError, reason_of
from prune2deploy.exporting.stage import opened
from prune2deploy.files import write_record, write_text
from prune2deploy.graphs.files import bytes_of
from prune2deploy.graphs.onnx_model import dense_onnx
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import PLAN_FILE, digest_of_model, load_dense, resolve_model, roundings_of
from prune2deploy.models.precisions import export_rounded
from prune2deploy.progress import Progress
from prune2deploy.provenance import versions
from prune2deploy.runtimes.base import Arrays, Engine
from prune2deploy.runtimes.quiet import patient
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.runtimes.workload import DENSE, time_workload
from prune2deploy.tasks.base import Task
from prune2deploy.tasks.metrics import Metric
from prune2deploy.tasks.paired import loss_between
from prune2deploy.tasks.predict import labels_of, metric_of, score_of
from prune2deploy.tasks.registry import task_of
from prune2deploy.team import refuse_team
from prune2deploy.validation.assess import workload_of

ROUNDS = 40


@dataclass(frozen=True)
class Subject:
    """A model to compare. `graph`: in float32, or, of `ours`, as it is exported."""

    name: str
    graph: Path
    ours: bool


@alone
@patient
def compare(
    project: Project, pruned: Sequence[Path] = (), out: Path = Path("comparison"), progress: Progress | None = None
) -> Comparison:
    """Measure the dense model in every usual form, and each of the directories `pruned`, in one interleaved run.

    A pruned model of which no block is in a lower precision is measured in those forms, too. Writes `out`.json and
    `out`.md. Raises InputError, and UnstableMeasurementError where the machine is too noisy to tell.
    """
    refuse_team("compare")
    progress = progress or Progress()
    for directory in pruned:
        if not (directory / PLAN_FILE).is_file():
            raise InputError(f"{directory}: no {PLAN_FILE} here, so this is no pruned model; `prune2deploy prune` makes one")
    directory = resolve_model(project.model, project.root)
    model = load_dense(directory)
    task = task_of(project, directory, model.config)
    project.state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.state, prefix="compare-") as folder:
        dense = dense_onnx(model, task, project.state / "dense", digest_of_model(directory))
        subjects = [Subject("dense", dense, False), *(_pruned(project, each, Path(folder)) for each in pruned)]
        built, failed = _build(project, task, subjects, Path(folder), progress)
        found = _measured(project, task, built, progress)
    comparison = found.model_copy(update={"source": project.model, "rows": [*found.rows, *failed]})
    write_record(out.with_name(f"{out.name}.json"), comparison)
    write_text(out.with_name(f"{out.name}.md"), "\n".join(comparison.table()) + "\n")
    return comparison


def _pruned(project: Project, directory: Path, folder: Path) -> Subject:
    record, _, small, task = opened(project, directory)
    graph = folder / f"{directory.name}.onnx"
    export_rounded(small, task, roundings_of(directory, record, small), graph)
    return Subject(directory.name, graph, bool(record.plan.precisions))


def _build(
    project: Project, task: Task, subjects: list[Subject], folder: Path, progress: Progress
) -> tuple[dict[tuple[str, str], Built], list[Row]]:
    """(engines by (model, how), rows of those that could not be built)."""
    built: dict[tuple[str, str], Built] = {}
    failed: list[Row] = []
    usual, samples = contenders_of(project), _calibration(task)
    jobs = [(subject, each) for subject in subjects for each in ([_own(project)] if subject.ours else usual)]
    with progress.track("building what people use", len(jobs)) as advance:
        for number, (subject, contender) in enumerate(jobs):
            place = folder / str(number)
            place.mkdir()
            try:
                built[subject.name, contender.name] = contender.build(subject.graph, place, samples)
            except MissingPackageError:
                raise
            except Exception as error:  # whatever another library makes of a graph is a result, too
                failed.append(Row(model=subject.name, how=contender.name, failed=f"fails: {reason_of(error)}"))
            advance()
    if not built:
        raise InputError(f"nothing could be built: {failed[0].failed}")
    return built, failed


def _own(project: Project) -> Contender:
    """The project's own runtime, for graphs that are in lower precision already."""

    def build(graph: Path, folder: Path, samples: list[Arrays]) -> Built:
        return Built(runtime_for(project.target).build(graph), graph)

    return Contender(f"prune2deploy, {project.target.runtime}", build)


def _calibration(task: Task) -> list[Arrays]:
    """Single samples, as these libraries calibrate on them."""
    samples = task.calibration(CALIBRATION, 0)
    return [samples.batch([index]).inputs for index in range(len(samples))]


def _measured(
    project: Project, task: Task, built: dict[tuple[str, str], Built], progress: Progress
) -> Comparison:
    """Everything that could be built, scored, and timed against the first."""
    evaluation = task.evaluation()
    names = list(built)
    metrics: dict[tuple[str, str], Metric] = {}
    labels = labels_of(built[names[0]].engine.run, task, evaluation)
    with progress.track("scoring", len(names)) as advance:
        for name in names:
            metrics[name] = metric_of(built[name].engine.run, task, evaluation, labels)
            advance()
    engines: dict[str, Engine] = {DENSE if name == names[0] else " | ".join(name): built[name].engine for name in names}
    workload = workload_of(project, task, evaluation)
    timings = time_workload(engines, workload, progress, "measuring all of them", ROUNDS)
    rows, dense = [], timings[DENSE].ms
    for name, key in zip(names, engines, strict=True):
        lost = loss_between(metrics[names[0]], metrics[name])
        rows.append(Row(
            model=name[0], how=name[1], ms=timings[key].ms, ratio=timings[key].ms / dense,
            score=score_of(metrics[name], evaluation).value, lost=lost.points, lost_standard_error=lost.standard_error,
            megabytes=bytes_of(built[name].file) / 1e6, ours=name[0] != "dense",
        ))  # fmt: skip
    score, runtime = score_of(metrics[names[0]], evaluation), runtime_for(project.target)
    return Comparison(
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), source="",
        metric=score.metric, n=score.n, device=runtime.device(), threads=runtime.describe().threads,
        workload=project.workload, rows=rows, versions=versions(),
    )  # fmt: skip
