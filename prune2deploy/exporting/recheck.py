"""The validate stage: is a package still what it was when it was made, and does it keep its promises on this machine?"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune2deploy.config import Project, Target
from prune2deploy.errors import InputError, UnstableMeasurementError
from prune2deploy.exporting.sentence_transformers import GRAPH
from prune2deploy.exporting.stage import entry_check
from prune2deploy.files import Record
from prune2deploy.graphs.onnx_model import dense_onnx
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import digest_of_model, load_dense, resolve_model
from prune2deploy.progress import Progress
from prune2deploy.repository.check import compiled_in, part_checks
from prune2deploy.repository.manifest import (
    MANIFEST_FILE,
    REFERENCE_FILE,
    Manifest,
    folder_problems,
    is_folder,
    read_manifest,
    seal_problems,
)
from prune2deploy.repository.references import References, chosen, read_references
from prune2deploy.repository.triton import BACKENDS
from prune2deploy.repository.versions import located
from prune2deploy.runtimes.base import Engine, Runtime, Shapes
from prune2deploy.runtimes.ort import OnnxRuntime
from prune2deploy.runtimes.processor_kind import saturates
from prune2deploy.runtimes.quiet import patient, waiting
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.runtimes.workload import DENSE, time_workload
from prune2deploy.tasks.base import Task
from prune2deploy.tasks.paired import loss_between, weight_of_one
from prune2deploy.tasks.predict import labels_of, metric_of, score_of
from prune2deploy.tasks.registry import task_of
from prune2deploy.team import refuse_team
from prune2deploy.validation.assess import PRUNED, ROUNDS, budget_checks, onnx_check
from prune2deploy.validation.record import Check

ROUNDING = 1e-9  # of differences between scores


class Validation(Record):
    """What became of a package. `not_checked`: what could not be looked into here, and why."""

    package: str
    passed: bool
    checks: list[Check]
    not_checked: list[str]
    measured_ms: float | None = None
    dense_ms: float | None = None
    speedup: float | None = None


@alone
@patient
def validate(
    package: Path, project: Project | None = None, progress: Progress | None = None, wait_minutes: float | None = None
) -> Validation:
    """Check `package`, a version of a repository entry, again, on this machine; of an entry, the version that is served.

    Hashes, also those of the entries around it, Triton entry, graph, reference outputs and latency; where `project` names
    the model that the package was pruned from, the task metric too, and the dense engine is timed in the same run. A
    disturbed measurement waits `wait_minutes` for quiet, or as the project says. Raises InputError when it is no package.
    """
    refuse_team("validate")
    progress = progress or Progress()
    not_checked: list[str] = []
    if is_folder(package):
        version, checks = package, [hash_check(folder_problems(package))]
        manifest, graph_name = read_manifest(version), str(GRAPH)
        model_name = graph_name
    else:
        entry, number = located(package)
        version = entry / number
        manifest = read_manifest(version)
        model_name, graph_name = BACKENDS[manifest.backend].model, BACKENDS[manifest.backend].graph
        checks = [hash_check(seal_problems(entry, number)), entry_check(entry, number, manifest.name), *part_checks(entry)]
        if compiled := compiled_in(entry):
            not_checked.append(f"{len(compiled)} compiled python files that a server left in the entry")
    if manifest.verdict != "passed":
        failed = next((check for check in manifest.checks if not check.passed), None)
        detail = f"{failed.name}: {failed.detail}" if failed else "by its own manifest"
        checks.append(Check(name="made without a failure", passed=False, detail=f"exported by force; {detail}"))
    checks.append(onnx_check(version / graph_name))
    if not checks[-1].passed:
        return Validation(package=str(package), passed=False, checks=checks, not_checked=["outputs and latency"])

    runtime = runtime_for(manifest.target)
    engine = runtime.load(version / model_name)
    try:
        references = read_references(version, len(manifest.workload))
        checks.append(reference_check("reference outputs", engine, references, manifest.tolerance))
        if graph_name != model_name:
            graph = OnnxRuntime(Target()).load(version / graph_name)
            checks.append(reference_check("reference outputs of the graph", graph, references, manifest.tolerance))
        workload = references.points(list(manifest.workload))
        for _, inputs in workload:
            engine.run(inputs)
    except Exception as error:  # whatever references that were tampered with make the runtime raise
        detail = f"{REFERENCE_FILE} cannot be used: {str(error).splitlines()[0]}"
        checks.append(Check(name="reference outputs", passed=False, detail=detail))
        return Validation(package=str(package), passed=False, checks=checks, not_checked=["latency"])

    checks.extend(saturation_checks(manifest, runtime))
    original = find_original(manifest, project, not_checked)
    if original is not None:
        checks.append(metric_check(manifest, original, engine, progress))
    # a session that has run other shapes stays up to 3 % slower: as at export, what is timed has run nothing yet
    engines: dict[str, Engine] = {PRUNED: runtime.load(version / model_name)}
    engines[DENSE] = original.engine() if original else engines[PRUNED]
    try:
        with nullcontext() if wait_minutes is None else waiting(wait_minutes):
            timings = time_workload(engines, workload, progress, "measuring latency", ROUNDS)
    except UnstableMeasurementError as error:
        checks.append(Check(name="latency", passed=False, detail=f"could not be measured: {error}"))
        return Validation(package=str(package), passed=False, checks=checks, not_checked=not_checked)
    measured = timings[PRUNED].ms
    if differs := manifest.device.differs(runtime.device()):
        not_checked.append(f"budget: it is meant for {differs}")
    elif manifest.budget.kind == "speedup" and original is None:
        not_checked.append(f"budget: a speedup needs the dense model; measured {measured:.3g} ms here")
    else:
        limit = manifest.budget.limit_ms(timings[DENSE].ms) if manifest.budget.timed else None
        checks.extend(budget_checks(manifest.budget, limit, timings, manifest.device.name))
    return Validation(
        package=str(package), passed=all(check.passed for check in checks), checks=checks, not_checked=not_checked,
        measured_ms=measured, dense_ms=timings[DENSE].ms if original else None,
        speedup=timings[DENSE].ms / measured if original else None,
    )  # fmt: skip


def saturation_checks(manifest: Manifest, runtime: Runtime) -> list[Check]:
    """Whether products of 8-bit weights come out right on this processor; nothing where there are none."""
    if not manifest.wide_products:
        return []
    wrong = saturates(runtime.device().instructions)
    detail = (
        "the weights have 8 bits, and this processor, x86 without VNNI, adds up their products in 16 bits, which saturate: "
        "answers may be wrong; prune on it, or with a latency table from it (`prune --table`)"
        if wrong else "this processor adds up products of 8-bit weights exactly"
    )
    return [Check(name="products do not saturate", passed=not wrong, detail=detail)]


def reference_check(name: str, engine: Engine, references: References, tolerance: float) -> Check:
    """Whether `engine` gives what the pruned PyTorch model gave at export."""
    said = chosen(engine.run(references.inputs), references.positions)
    difference = float(np.max([np.abs(said[name] - wanted).max() for name, wanted in references.outputs.items()]))
    detail = f"largest difference {difference:.2g} (tolerance {tolerance:.2g})"
    return Check(name=name, passed=difference <= tolerance, detail=detail)


def metric_check(manifest: Manifest, original: "Original", engine: Engine, progress: Progress) -> Check:
    """Whether `engine` scores what it scored at export, up to the standard error of that, and the weight of one sample."""
    evaluation = original.task.evaluation()
    with progress.track("scoring both engines", 2) as advance:
        dense = original.engine()
        labels = labels_of(dense.run, original.task, evaluation)
        metrics = []
        for each in (engine, dense):
            metrics.append(metric_of(each.run, original.task, evaluation, labels))
            advance()
    then, now, lost = manifest.metric_pruned, score_of(metrics[0], evaluation), loss_between(metrics[1], metrics[0])
    # packages of before say ± 0 where every sample was right
    tolerance = max(then.standard_error, weight_of_one(then.n)) * (1 + ROUNDING)
    passed = abs(now.value - then.value) <= tolerance
    return Check(name="task metric", passed=passed, detail=f"{now}; at export {then.value:.2f}; {lost}")


def hash_check(problems: list[str]) -> Check:
    """Whether the files are those that were written."""
    return Check(name="files", passed=not problems, detail="; ".join(problems) or f"as {MANIFEST_FILE} says")


@dataclass(frozen=True)
class Original:
    """The model that a package was pruned from: its task, and what its engines are made of."""

    task: Task
    runtime: Runtime
    dense: Path

    def engine(self) -> Engine:
        """An engine that has run nothing yet."""
        return self.runtime.build(self.dense)


def find_original(manifest: Manifest, project: Project | None, not_checked: list[str]) -> Original | None:
    """What `project` has of the model that the package was pruned from; None, with the reason noted, where it has not."""
    if project is None:
        not_checked.append("task metric and speedup: no project file here that names the dense model")
        return None
    try:
        directory = resolve_model(project.model, project.root)
    except InputError as error:
        not_checked.append(f"task metric and speedup: {error}")
        return None
    if digest_of_model(directory) != manifest.source_sha256:
        not_checked.append(f"task metric and speedup: {project.model} is not the model that the package was pruned from")
        return None
    model = load_dense(directory)
    task = task_of(project, directory, model.config)
    if manifest.layout == "sentence-transformers":
        task.give_tokens()
    runtime = runtime_for(manifest.target, Shapes(manifest.workload, task.axis_limits()), project.state)
    return Original(task, runtime, dense_onnx(model, task, project.state / "dense", manifest.source_sha256))
