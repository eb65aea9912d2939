"""The export stage for sentence-transformers: a folder that the library, and text-embeddings-inference, load as their own.

The graph in `onnx/model.onnx` has the ragged widths, and there are no other weights. An embedder's graph gives the states
of all tokens, which the library pools, and beside them the vector that we make of these.
"""

import shutil
import time
from pathlib import Path

from prune2deploy.budget import Budget, refuse_silly_loss
from prune2deploy.config import Project, Target
from prune2deploy.errors import InputError
from prune2deploy.exporting.stage import (
    failure_of,
    manifest_of,
    opened,
    table_of,
    take_fused,
    wall_seconds,
    with_check,
    write_report,
)
from prune2deploy.exporting.witnessed import comparable, witness_checks
from prune2deploy.files import refuse_existing, staged_directory, write_text
from prune2deploy.graphs.onnx_model import dense_onnx
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import processor_files, roundings_of
from prune2deploy.models.precisions import export_rounded
from prune2deploy.models.sentence_modules import module_files
from prune2deploy.progress import Progress
from prune2deploy.repository.manifest import entry_name, write_sealed
from prune2deploy.repository.references import write_references
from prune2deploy.runtimes.base import Shapes
from prune2deploy.runtimes.ort import OnnxRuntime
from prune2deploy.runtimes.quiet import patient
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.base import Task
from prune2deploy.tasks.predict import torch_run
from prune2deploy.team import refuse_team
from prune2deploy.validation.assess import Subject, assess, onnx_check, tolerance_of, workload_of
from prune2deploy.validation.html import render
from prune2deploy.validation.record import Report

GRAPH = Path("onnx") / "model.onnx"  # where the library, and text-embeddings-inference, look


@alone
@patient
def export_folder(
    project: Project, pruned: Path, directory: Path, name: str | None = None, budget: Budget | None = None,
    max_loss: float | None = None, force: bool = False, progress: Progress | None = None,
) -> Report:
    """Export the pruned model in directory `pruned` as the folder `directory`, and validate it on this machine.

    `SentenceTransformer(directory, backend="onnx")` loads it, or, of a model that scores or classifies, `CrossEncoder`.
    Nothing is written when a check fails, unless `force`. Raises CheckFailedError naming the check, and InputError.
    """
    refuse_team("export")
    refuse_silly_loss(max_loss)
    refuse_existing(directory)
    progress = progress or Progress()
    start = time.monotonic()
    record, dense, small, task = opened(project, pruned)
    refuse_unlike(project, task)
    task.give_tokens()
    runtime = runtime_for(project.target, Shapes(project.workload, task.axis_limits()), project.state)
    project.state.mkdir(parents=True, exist_ok=True)
    with staged_directory(directory) as folder:
        evaluation, graph = task.evaluation(), folder / GRAPH
        plain = project.state / "model.onnx"
        with progress.track("exporting", 2) as advance:
            dense_file = dense_onnx(dense, task, project.state / "dense", record.provenance.source_sha256)
            advance()
            export_rounded(small, task, roundings_of(pruned, record, small), plain)
            advance()
        dense_file, fused = take_fused(dense_file, plain, runtime, project, task, evaluation, progress)
        runtime.compile(plain, graph)
        subject = Subject(
            project=project, task=task, record=record, budget=budget or record.provenance.budget, dense=dense,
            pruned=small, dense_onnx=dense_file, pruned_onnx=plain, artifact=graph, fused=fused,
            table=table_of(project, record), max_loss=max_loss, name=entry_name(name, project),
        )  # fmt: skip
        copy_files(task, folder)
        run, workload = torch_run(small, task), workload_of(project, task, evaluation)
        write_references(folder, task, evaluation, lambda inputs: only_outputs(task, run(inputs)), workload)
        report = assess(subject, runtime, wall_seconds(record, subject.table, start), progress)
        tolerance = tolerance_of(project.target, record.plan)
        with progress.track("asking transformers' pipeline", 1) as advance:
            with comparable(subject, OnnxRuntime(Target()).load(graph)) as engine:
                checks = [onnx_check(graph), *witness_checks(subject, engine, tolerance, evaluation, None)]
            advance()
        for check in checks:
            report = with_check(report, check)
        write_report(report, folder)
        manifest = manifest_of(report, subject, folder, 1, {})
        write_sealed(manifest.model_copy(update={"layout": "sentence-transformers"}), folder)
        if report.verdict == "failed" and not force:
            kept = project.state / "rejected" / f"{subject.name}.html"
            write_text(kept, render(report))
            raise failure_of(report, f"{report.headline} (nothing was exported; the report is {kept})")
    return report


def refuse_unlike(project: Project, task: Task) -> None:
    """Raise InputError where sentence-transformers has nothing that could load the model."""
    if not task.sentence_transformer:
        raise InputError(
            f"--layout sentence-transformers is for embedders (embeddings) and cross-encoders (text-scores, "
            f"text-classification, multi-label), and this project is of {task.name}: leave it out"
        )
    if project.target.runtime != "onnxruntime":
        raise InputError('--layout sentence-transformers needs runtime = "onnxruntime", which the library runs graphs in')


def copy_files(task: Task, folder: Path) -> None:
    """Copy into `folder` what the library reads beside the graph."""
    source = task.model_dir
    for file in [source / "config.json", *processor_files(source), *module_files(source)]:
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def only_outputs(task: Task, said: dict) -> dict:
    """Of what a graph gives, the outputs that the task reads."""
    return {name: said[name] for name in task.outputs}
