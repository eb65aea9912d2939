"""The export stage: from a pruned model directory to a validated entry of a Triton model repository."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.budget import Budget, refuse_silly_loss
from prune2deploy.config import Project, Target
from prune2deploy.errors import BudgetMissedError, CheckFailedError, InputError, LossExceededError, UnstableMeasurementError
from prune2deploy.exporting.parts import (
    part_names,
    publish_parts,
    raw_check,
    refuse_other_parts,
    serve_python,
    staged_preprocessor,
    write_parts,
)
from prune2deploy.exporting.releases import release_named, server_check
from prune2deploy.exporting.witnessed import comparable, refuse_unservable, witness_checks
from prune2deploy.files import sha256_of, write_record, write_text
from prune2deploy.graphs.files import copy_graph, move_graph, remove_graph
from prune2deploy.graphs.fuse import GAIN, fuse, fused_dense
from prune2deploy.graphs.onnx_model import dense_onnx
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import (
    PrunedRecord,
    digest_of_model,
    load,
    load_dense,
    processor_files,
    read_pruned_record,
    resolve_model,
    roundings_of,
)
from prune2deploy.models.precisions import export_rounded
from prune2deploy.models.table import LatencyTable, read_table
from prune2deploy.precisions import FORMATS
from prune2deploy.progress import Progress
from prune2deploy.repository.check import part_checks
from prune2deploy.repository.manifest import Manifest, entry_name, own_files, shared_files, write_sealed
from prune2deploy.repository.references import write_references
from prune2deploy.repository.triton import (
    BACKENDS,
    Backend,
    import_schema,
    model_config,
    parameters_of,
    tensor_specs,
    write_config,
    write_warmup,
)
from prune2deploy.repository.triton_check import check_entry
from prune2deploy.repository.versions import adopt, newest_manifest, publish, staging, versions_of
from prune2deploy.runtimes.base import Arrays, Runtime, Shapes
from prune2deploy.runtimes.ort import OnnxRuntime
from prune2deploy.runtimes.processor_kind import saturates
from prune2deploy.runtimes.quiet import patient
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.runtimes.workload import DENSE, time_workload
from prune2deploy.tasks.base import LABELS_FILE, Samples, Task
from prune2deploy.tasks.classification import write_labels
from prune2deploy.tasks.predict import torch_run
from prune2deploy.tasks.registry import task_of
from prune2deploy.team import refuse_team
from prune2deploy.validation.assess import (
    BUDGET,
    LOSS,
    PRUNED,
    Subject,
    assess,
    onnx_check,
    tolerance_of,
    workload_of,
)
from prune2deploy.validation.html import render
from prune2deploy.validation.record import Check, Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# by runtime and device: the file of prune2deploy.serving.served that runs a graph in it, and the package that it needs
PYTHON_MODELS = {
    ("onnxruntime", "cpu"): ("onnx_model", "onnxruntime"), ("onnxruntime", "gpu"): ("onnx_model", "onnxruntime-gpu"),
    ("openvino", "cpu"): ("openvino_model", "openvino"),
}  # fmt: skip
SMALLEST_MAX_BATCH = 8  # a server gathers requests up to this many, even where the workload is single samples


@alone
@patient
def export(
    project: Project, pruned: Path, repository: Path, name: str | None = None, budget: Budget | None = None,
    max_loss: float | None = None, force: bool = False, progress: Progress | None = None,
) -> Report:
    """Export the pruned model in directory `pruned` as a version of `repository/name`, and validate it on this machine.

    `budget` replaces the one that the model was pruned to. Nothing is added to the repository when a check fails, unless
    `force`, and then the report says so on its first line. Raises CheckFailedError naming the check, and InputError.
    """
    refuse_team("export")
    refuse_silly_loss(max_loss)
    progress = progress or Progress()
    start = time.monotonic()
    import_schema()  # what is missing is said before the work
    name = entry_name(name, project)
    refuse_other(repository, name, project)
    if project.target.triton is not None:
        release_named(project.target.triton)
    record, dense, small, task = opened(project, pruned)
    refuse_unservable(project, task)
    runtime = runtime_for(project.target, Shapes(project.workload, task.axis_limits()), project.state)
    if project.target.cuda_graphs:
        progress.note("measured with CUDA graphs, which a server replays for TensorRT only: it will be slower there")
    project.state.mkdir(parents=True, exist_ok=True)
    with staging(repository, name) as stage:
        entry, staged = repository / name, stage / name
        version = staged / str(max(versions_of(entry), default=0) + 1)
        version.mkdir(parents=True)
        evaluation = task.evaluation()
        onnx_file, backend = stage / "model.onnx", BACKENDS[project.backend]
        with progress.track("exporting", 2) as advance:
            dense_file = dense_onnx(dense, task, project.state / "dense", record.provenance.source_sha256)
            advance()
            export_rounded(small, task, roundings_of(pruned, record, small), onnx_file)
            advance()
        fused = False
        if not record.plan.precisions:  # fusion looks for products in float32
            dense_file, fused = take_fused(dense_file, onnx_file, runtime, project, task, evaluation, progress)
        compile_into(version, backend, runtime, onnx_file, progress)
        subject = Subject(
            project=project, task=task, record=record, budget=budget or record.provenance.budget, dense=dense,
            pruned=small, dense_onnx=dense_file, pruned_onnx=onnx_file, artifact=version / backend.model, fused=fused,
            table=table_of(project, record), max_loss=max_loss, name=name,
        )  # fmt: skip
        write_beside(subject, staged, version, runtime, evaluation)
        if entry.exists():
            adopt(entry, staged)
        parts = parts_of(subject, stage, version, repository)
        refuse_other_parts(parts, repository)
        seconds = wall_seconds(record, subject.table, start)
        report = judge(subject, runtime, staged, version, parts, evaluation, seconds, progress)
        if report.verdict == "failed" and not force:
            kept = project.state / "rejected" / f"{name}.html"
            write_text(kept, (version / "report.html").read_text(encoding="utf-8"))
            raise failure_of(report, f"{report.headline} (nothing was exported; the report is {kept})")
        publish_parts(parts[:-1], repository, project.serving.keep)
        publish(staged, entry, project.serving.keep)
        publish_parts(parts[-1:], repository, project.serving.keep)  # the ensemble, when all of its steps are there
    return report


def opened(project: Project, pruned: Path) -> "tuple[PrunedRecord, PreTrainedModel, PreTrainedModel, Task]":
    """(record, dense, pruned, task) of the directory `pruned`; raises InputError where it was made of another model."""
    record = read_pruned_record(pruned)
    directory = resolve_model(project.model, project.root)
    if digest_of_model(directory) != record.provenance.source_sha256:
        raise InputError(f"{pruned} was pruned from {record.provenance.source}, and {project.model} is another model")
    dense = load_dense(directory)
    return record, dense, load(pruned), task_of(project, directory, dense.config)


def refuse_other(repository: Path, name: str, project: Project) -> None:
    """Raise InputError, before any work is done, where `repository` cannot take a version of `name` from `project`."""
    there = newest_manifest(repository, name)
    if there is None:
        return
    asked = {"task": project.task, "backend": project.backend, "largest batch": max_batch_size(project)}
    found = {"task": there.task, "backend": there.backend, "largest batch": there.max_batch_size}
    if differ := next((key for key in asked if asked[key] != found[key]), None):
        raise InputError(
            f"{repository / name} is served with another {differ} ({found[differ]}, here {asked[differ]}), and its versions "
            "share it: export under another --name"
        )


def write_beside(subject: Subject, staged: Path, version: Path, runtime: Runtime, evaluation: Samples) -> None:
    """Write all that a server and a person want beside the model: references, configuration, tokenizer or processor."""
    task = subject.task
    workload = workload_of(subject.project, task, evaluation)
    write_references(version, task, evaluation, torch_run(subject.pruned, task), workload)
    write_entry(staged, version, subject, runtime, [inputs for _, inputs in workload])
    for file in processor_files(task.model_dir):
        (version / "processor").mkdir(exist_ok=True)
        shutil.copyfile(file, version / "processor" / file.name)


def parts_of(subject: Subject, stage: Path, version: Path, repository: Path) -> list[Path]:
    """The entries around the model, made in `stage`, where the project asks for them or `repository` has them."""
    project, task, name = subject.project, subject.task, subject.name
    there = any((repository / part).exists() for part in part_names(name, task).values())
    if not (project.serving.with_tokenizer or there):
        return []
    inputs, outputs = tensor_specs(version / BACKENDS[project.backend].graph)
    return write_parts(stage, name, project, task, inputs, outputs, max_batch_size(project))


def judge(
    subject: Subject, runtime: Runtime, staged: Path, version: Path, parts: list[Path], evaluation: Samples,
    seconds: dict[str, float], progress: Progress,
) -> Report:
    """Check everything, and write the report and the manifest, which end the making of the version."""
    backend = BACKENDS[subject.project.backend]
    graph_file = version / backend.graph
    # the graph beside a plan is in float32; one that is served itself computes in the target's precision
    target = subject.project.target if backend.graph == backend.model else Target()
    tolerance = tolerance_of(target, subject.record.plan)
    report = assess(subject, runtime, seconds, progress)
    checks = [onnx_check(graph_file), entry_check(staged, version.name, subject.name)]
    plain, preprocessor = OnnxRuntime(Target()).load(graph_file), staged_preprocessor(parts[0]) if parts else None
    with comparable(subject, plain) as graph:
        if preprocessor:
            run = torch_run(subject.pruned, subject.task)
            checks += [raw_check(preprocessor, subject.task, graph, run, evaluation, tolerance), *part_checks(staged)]
        with progress.track("asking transformers' pipeline", 1) as advance:
            checks += witness_checks(subject, graph, tolerance, evaluation, preprocessor)
            advance()
    for check in [*checks, *server_checks(subject.project, runtime)]:
        report = with_check(report, check)
    write_report(report, version)
    write_sealed(manifest_of(report, subject, version, int(version.name), shared_files(staged)), version)
    return report


def write_report(report: Report, version: Path) -> None:
    """Write `report` for machines and for people."""
    write_record(version / "report.json", report)
    write_text(version / "report.html", render(report))


def max_batch_size(project: Project) -> int:
    """The largest batch that a server may make."""
    return max([SMALLEST_MAX_BATCH, *(point.batch for point in project.workload)])


def compile_into(version: Path, backend: Backend, runtime: Runtime, onnx_file: Path, progress: Progress) -> None:
    """Put what a server loads into `version`, and beside it the graph that it was made of, where that is another file."""
    for name in (backend.model, backend.graph):
        (version / name).parent.mkdir(exist_ok=True)
    with progress.track("building the engine", 1) as advance:
        runtime.compile(onnx_file, version / backend.model)
        advance()
    if backend.graph != backend.model:
        copy_graph(onnx_file, version / backend.graph)


def failure_of(report: Report, message: str) -> CheckFailedError:
    """The error that says what is wrong, for somebody who can mend it by pruning again."""
    failed = [check.name for check in report.checks if not check.passed]
    if report.limit_ms and all(name.startswith(BUDGET) for name in failed):
        return BudgetMissedError(message, report.latency_pruned.ms / report.limit_ms)
    if all(name.endswith(LOSS) for name in failed):
        return LossExceededError(message)
    return CheckFailedError(message)


def take_fused(
    dense_file: Path, onnx_file: Path, runtime: Runtime, project: Project, task: Task, samples: Samples,
    progress: Progress,
) -> tuple[Path, bool]:
    """Put the fused graph in the place of `onnx_file` where it is measured faster and equal.

    The dense model, which the speedup is taken against, is then fused too. Returns its file, and whether it was done.
    """
    if project.target.runtime != "onnxruntime" or project.target.own_precision != "fp32":
        return dense_file, False  # nothing else takes ONNX Runtime's own operators, and they are not cast
    fused_file = project.state / "fused.onnx"
    if not fuse(onnx_file, fused_file):
        return dense_file, False
    workload = workload_of(project, task, samples)
    engines = {DENSE: runtime.build(dense_file), PRUNED: runtime.build(onnx_file), "fused": runtime.build(fused_file)}
    pairs = [(engines["fused"].run(inputs), engines[PRUNED].run(inputs)) for _, inputs in workload]
    equal = all(np.allclose(said[name], wanted[name], rtol=1e-4, atol=1e-4) for said, wanted in pairs for name in wanted)
    try:
        timings = time_workload(engines, workload, progress, "plain against fused graph")
    except UnstableMeasurementError:
        remove_graph(fused_file)
        raise
    plain, fused = timings[PRUNED].ms, timings["fused"].ms
    taken = equal and fused < (1 - GAIN) * plain
    progress.note(f"fused graph: {fused:.2f} ms, plain {plain:.2f} ms; " + ("taken" if taken else "not taken"))
    if not taken:
        remove_graph(fused_file)
        return dense_file, False
    move_graph(fused_file, onnx_file)
    return fused_dense(dense_file), True


def table_of(project: Project, record: PrunedRecord) -> LatencyTable | None:
    """The table that the model was pruned with, where it still lies in the project's profiles."""
    for path in sorted(project.profiles.rglob("*.json")) if record.provenance.table else []:
        if path.name == record.provenance.table and sha256_of(path) == record.provenance.table_sha256:
            return read_table(path)
    return None


def write_entry(entry: Path, version: Path, subject: Subject, runtime: Runtime, workload: list[Arrays]) -> None:
    """Write what a Triton server reads beside the model: labels, warm-up samples, configuration, python."""
    project = subject.project
    if labels := subject.task.label_names():
        write_labels(entry, labels)
    if project.backend == "python":
        source, package = PYTHON_MODELS[project.target.runtime, project.target.device]
        serve_python(version, source, ["numpy", package])
    inputs, outputs = tensor_specs(version / BACKENDS[project.backend].graph)
    config = model_config(
        subject.name, inputs, outputs, max_batch_size=max_batch_size(project),
        parameters=parameters_of(runtime.describe(), project.backend), backend=project.backend, serving=project.serving,
        device=runtime.device().kind,
        labels_file=LABELS_FILE if labels else None,
        warmups=[write_warmup(entry, f"workload{index or ''}", inputs) for index, inputs in enumerate(workload)],
        profiles=len(workload) + 1,  # one for each point and one for the rest (runtimes/trt.py)
    )  # fmt: skip
    write_config(entry, config)


def entry_check(entry: Path, version: str, name: str) -> Check:
    """Whether a Triton server can make sense of the entry."""
    problems = check_entry(entry, version, name)
    return Check(name="Triton entry", passed=not problems, detail="; ".join(problems) or "config.pbtxt fits the files")


def server_checks(project: Project, runtime: Runtime) -> list[Check]:
    """Whether the server that the project names will load what was built here, and run it as it was measured."""
    target, checks = project.target, []
    if otherwise := runtime.otherwise(project.backend):
        checks.append(Check(name="a server runs it as measured", passed=False, detail=otherwise))
    if target.triton is not None:
        checks.append(server_check(target.triton, runtime.describe(), target.tensorrt.version_compatible))
    return checks


def with_check(report: Report, check: Check) -> Report:
    """`report` with one more check."""
    changes: dict[str, object] = {"checks": [*report.checks, check]}
    if not check.passed:
        changes["verdict"] = "failed"
        if report.verdict == "passed":
            changes["headline"] = f"FAILED {check.name}: {check.detail}"
    return report.model_copy(update=changes)


def wall_seconds(record: PrunedRecord, table: LatencyTable | None, start: float) -> dict[str, float]:
    """Wall time of every stage so far."""
    seconds = {"profile": table.seconds} if table else {}
    for stage in record.provenance.stages:
        seconds["calibration" if stage.stage == "dense" else stage.stage] = stage.seconds
    return {**seconds, "export": round(time.monotonic() - start, 1)}


def wide_products(report: Report) -> bool:
    """Whether weights of 8 bits are multiplied, and none of 7 as where products saturate."""
    integers = any(FORMATS[precision].by_integers for precision in report.precisions.values())
    return integers and not saturates(report.device.instructions)


def manifest_of(report: Report, subject: Subject, version: Path, number: int, shared: dict[str, str]) -> Manifest:
    """The manifest of the directory `version`, whose other files are all written; `shared`: what lies beside it."""
    provenance = subject.record.provenance
    return Manifest(
        name=report.name, version=number, created_at=report.created_at, verdict=report.verdict,
        task=report.task, source=report.source, source_sha256=provenance.source_sha256,
        weights_sha256=subject.record.weights_sha256, table_sha256=provenance.table_sha256,
        device=report.device, runtime=report.runtime,
        target=subject.project.target.model_copy(update={"threads": report.runtime.threads}),
        workload=subject.project.workload, max_batch_size=max_batch_size(subject.project), method=report.method,
        budget=report.budget, limit_ms=report.limit_ms, dense_ms=report.latency_dense.ms,
        measured_ms=report.latency_pruned.ms, speedup=report.speedup,
        metric_dense=report.metric_dense, metric_pruned=report.metric_pruned, lost=report.lost, checks=report.checks,
        tolerance=report.numerics.tolerance, wide_products=wide_products(report), versions=report.versions,
        backend=subject.project.backend, files=own_files(version), shared=shared,
    )  # fmt: skip
