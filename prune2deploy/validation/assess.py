"""Everything that is checked of an exported model, on real samples and on this machine's clock."""

import datetime
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.budget import Budget
from prune2deploy.config import Precision, Project, Target, WorkloadPoint
from prune2deploy.graphs.files import bytes_of, copy_graph, remove_graph
from prune2deploy.graphs.onnx_model import exported_form
from prune2deploy.graphs.onnx_nodes import modules_of
from prune2deploy.models.checkpoint import PrunedRecord
from prune2deploy.models.family import blocks_of
from prune2deploy.models.layer_times import block_ms
from prune2deploy.models.plan import Plan
from prune2deploy.models.precisions import quantise_for_timing
from prune2deploy.models.table import LatencyTable
from prune2deploy.precisions import FORMATS
from prune2deploy.progress import Progress
from prune2deploy.provenance import peak_memory_gb, versions
from prune2deploy.runtimes.base import Arrays, Engine, Runtime
from prune2deploy.runtimes.ort import OnnxRuntime
from prune2deploy.runtimes.workload import DENSE, WorkloadTiming, time_workload
from prune2deploy.tasks.base import Samples, Score, Task
from prune2deploy.tasks.by_class import ByClass
from prune2deploy.tasks.objectives import Outputs, difference_of, largest_of
from prune2deploy.tasks.paired import Loss, loss_between
from prune2deploy.tasks.predict import labels_of, metric_of, outputs_of, score_of, torch_run
from prune2deploy.validation.record import (
    Check,
    ClassRecord,
    EngineLatency,
    LossRecord,
    MetricRecord,
    Numerics,
    PointLatency,
    Report,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRUNED = "pruned"
BUDGET = "budget"  # how the names of checks of the budget begin
LOSS = "points lost"  # how the name of the quality gate ends
SAMPLES = 64  # that outputs are compared on
# of the largest logit: an engine against PyTorch in float32; half precision rounds by 2^-11 and 2^-8 at every step
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 8e-2}
# where inputs are rounded: what differs by a last bit in float32 may be rounded to the next number
ROUNDED = 5e-2
ROUNDS = 60


@dataclass
class Subject:
    """One exported model and what it is compared with."""

    project: Project
    task: Task
    record: PrunedRecord
    budget: Budget
    dense: "PreTrainedModel"
    pruned: "PreTrainedModel"
    dense_onnx: Path
    pruned_onnx: Path
    artifact: Path
    fused: bool
    table: LatencyTable | None
    max_loss: float | None
    name: str


def assess(subject: Subject, runtime: Runtime, seconds: dict[str, float], progress: Progress) -> Report:
    """Compare outputs, score, and time; the report names every promise that was not kept.

    Raises UnstableMeasurementError where the machine is too noisy to tell.
    """
    start = time.monotonic()
    evaluation = subject.task.evaluation()
    engines = engines_of(subject, runtime)
    numerics, numeric_checks = compare_outputs(subject, engines[PRUNED], evaluation)
    with progress.track("scoring both engines", 2) as advance:
        labels = labels_of(engines[DENSE].run, subject.task, evaluation)
        metrics, classes = {}, {name: ByClass(subject.task) for name in engines}
        for name, engine in engines.items():
            metrics[name] = metric_of(engine.run, subject.task, evaluation, labels, classes[name])
            advance()
    scores = {name: score_of(metric, evaluation) for name, metric in metrics.items()}
    lost = loss_between(metrics[DENSE], metrics[PRUNED])
    workload = workload_of(subject.project, subject.task, evaluation)
    # a session that has run other shapes stays up to 3 % slower: what is timed, here as in `prune`, has run nothing yet
    engines = engines_of(subject, runtime)
    timings = time_workload(engines, workload, progress, "measuring dense and pruned", ROUNDS)

    record, provenance = subject.record, subject.record.provenance
    limit = subject.budget.limit_ms(timings[DENSE].ms) if subject.budget.timed else None
    checks = [*numeric_checks, *budget_checks(subject.budget, limit, timings, provenance.device)]
    changed = classes[PRUNED].against(classes[DENSE])
    warnings = [str(change) for change in changed if change.collapsed]
    if subject.max_loss is not None:
        checks.append(loss_check(scores[DENSE], scores[PRUNED], lost, subject.max_loss))
        if doubt := lost.doubt(subject.max_loss):
            warnings.append(f"{checks[-1].name}: {doubt}")
    if numerics.batch_difference:
        warnings.append(
            "int8-dynamic rounds by the range of all that is in a batch: the same sample alone and among others gives "
            f"outputs that differ by up to {numerics.batch_difference:.2g} (--precision int8 has fixed ranges)"
        )
    predicted = None
    if provenance.predicted_ms is not None and subject.table is not None:
        predicted = provenance.predicted_ms * timings[DENSE].ms / subject.table.dense_ms
    failed = [check for check in checks if not check.passed]
    return Report(
        verdict="failed" if failed else "passed",
        headline=headline(failed, subject, timings, scores, lost),
        name=subject.name,
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        source=provenance.source, task=provenance.task, data=subject.project.data.path, method=provenance.method,
        budget=subject.budget, limit_ms=limit, checks=checks, warnings=warnings,
        signature=record.plan.signature,
        widths=record.plan.widths_by_key(), precisions=record.plan.precisions,
        parameters_dense=_parameters(subject.dense), parameters_pruned=_parameters(subject.pruned),
        onnx_bytes_dense=bytes_of(subject.dense_onnx), onnx_bytes_pruned=bytes_of(subject.pruned_onnx),
        fused=subject.fused, numerics=numerics,
        metric_dense=metric_record(scores[DENSE]), metric_pruned=metric_record(scores[PRUNED]),
        lost=LossRecord(points=lost.points, standard_error=lost.standard_error),
        classes=[ClassRecord(name=c.name, n=c.n, dense=c.before, pruned=c.after) for c in changed],
        dense_in_less=dense_in_less(subject, runtime, workload, progress),
        latency_dense=latency_record(subject.project, timings[DENSE]),
        latency_pruned=latency_record(subject.project, timings[PRUNED]),
        speedup=timings[DENSE].ms / timings[PRUNED].ms, predicted_ms=predicted,
        prediction_error=None if predicted is None else predicted / timings[PRUNED].ms - 1,
        stages=provenance.stages, fitted=provenance.fitted,
        seconds={**seconds, "validation": round(time.monotonic() - start, 1)}, peak_memory_gb=peak_memory_gb(),
        device=runtime.device(), runtime=runtime.describe(),
        block_ms=where_time_goes(subject, engines[PRUNED], workload[0][1]),
        table_points=subject.table.points if subject.table else [],
        table_error=subject.table.median_error if subject.table else None, versions=versions(),
    )  # fmt: skip


def where_time_goes(subject: Subject, engine: Engine, inputs: Arrays) -> dict[str, float]:
    """Milliseconds of each block inside `engine`; empty where the runtime does not say."""
    import onnx

    spent = engine.layer_ms(inputs)
    if not spent:
        return {}
    modules = modules_of(onnx.load(subject.pruned_onnx, load_external_data=False).graph)
    return block_ms(spent, engine.layers(), modules, blocks_of(subject.dense))


def engines_of(subject: Subject, runtime: Runtime) -> dict[str, Engine]:
    """The dense engine and the pruned one, as a server loads it; neither has run anything."""
    return {DENSE: runtime.build(subject.dense_onnx), PRUNED: runtime.load(subject.artifact)}


def dense_in_less(
    subject: Subject, runtime: Runtime, workload: list[tuple[WorkloadPoint, Arrays]], progress: Progress
) -> dict[str, float]:
    """Milliseconds of the dense model with every block in a lower precision that the latency table has, by its name.

    In a run of their own beside the dense engine: a third engine changes by some percent what the other two take.
    """
    engines = engines_in_less(subject, runtime)
    if not engines:
        return {}
    engines[DENSE] = runtime.build(subject.dense_onnx)
    timings = time_workload(engines, workload, progress, "measuring the dense model in lower precision")
    return {name: timing.ms for name, timing in timings.items() if name != DENSE}


def engines_in_less(subject: Subject, runtime: Runtime) -> dict[str, Engine]:
    """The dense model with every block in a lower precision that the latency table has: for its time alone."""
    table, blocks = subject.table, blocks_of(subject.dense)
    everything = {block: range(block.units) for block in blocks}
    found: dict[str, Engine] = {}
    if table is None:
        return found
    for precision in lower_precisions(table):
        offered = {block.key: precision for block in blocks if precision in table.lower_precisions(block.curve)}
        plan = Plan.of(subject.record.plan.signature, everything, offered)
        graph = subject.project.state / f"dense-{precision}.onnx"
        copy_graph(subject.dense_onnx, graph)
        quantise_for_timing(graph, exported_form(subject.dense, subject.task), plan, blocks, runtime.narrow)
        found[precision] = runtime.build(graph)
        remove_graph(graph)
    return found


def lower_precisions(table: LatencyTable) -> list[str]:
    """What blocks of any kind were measured in beside the engine's own precision."""
    return list(dict.fromkeys(lower for curve in table.signature.curves for lower in table.lower_precisions(curve)))


def workload_of(project: Project, task: Task, samples: Samples) -> list[tuple[WorkloadPoint, Arrays]]:
    """The project's workload, every point with real samples in its shape."""
    return [(point, task.workload_inputs(samples, point)) for point in project.workload]


def compare_outputs(subject: Subject, engine: Engine, evaluation: Samples) -> tuple[Numerics, list[Check]]:
    """The exported graph and its engine against PyTorch, in batches and one by one, and pruned against dense."""
    some = evaluation.first(SAMPLES)
    task = subject.task
    wanted, dense = (outputs_of(torch_run(model, task), task, some) for model in (subject.pruned, subject.dense))
    largest = largest_of(wanted)
    checks, target = [], subject.project.target
    if target.device == "gpu":  # elsewhere the engine is the graph as it is
        plain = OnnxRuntime(Target()).load(subject.pruned_onnx)
        checks.append(equality_check("ONNX equals PyTorch", outputs_of(plain.run, task, some), wanted, TOLERANCES["fp32"]))
    name = "ONNX equals PyTorch" if target.device == "cpu" else f"the {target.own_precision} engine equals PyTorch"
    batched, alone = outputs_of(engine.run, task, some), outputs_of(engine.run, task, some, batch_size=1)
    tolerance = tolerance_of(target, subject.record.plan)
    checks.append(equality_check(name, batched, wanted, tolerance))
    lengths = "sequence" in task.axis_limits()
    lonely = wanted
    if rounds_by_call(subject.record.plan):  # what a sample becomes then depends on those beside it
        lonely = outputs_of(torch_run(subject.pruned, task), task, some, batch_size=1)
    check = equality_check("any batch, any length" if lengths else "any batch", alone, lonely, tolerance)
    how = "each sample alone" + (" at its own length" if lengths else "")
    checks.append(check.model_copy(update={"detail": f"{check.detail}, {how}"}))
    agreement = float((task.predictions(wanted) == task.predictions(dense)).mean())
    apart = np.concatenate([np.abs(wanted[name].values - each.values).ravel() for name, each in dense.items()])
    return Numerics(
        samples=len(some), onnx_max_error=float(np.max([difference_of(batched, wanted), difference_of(alone, lonely)])),
        batch_difference=difference_of(wanted, lonely),
        tolerance=tolerance * max(1.0, largest), largest_logit=largest,
        dense_mean_difference=float(apart.mean()), same_prediction=agreement,
    ), checks  # fmt: skip


def tolerance_of(target: Target, plan: Plan) -> float:
    """How far an engine of `plan` may be from PyTorch, as a share of the largest output."""
    rounds = any(FORMATS[precision].by_integers for precision in plan.precisions.values())
    return max(TOLERANCES[target.own_precision], ROUNDED if rounds else 0.0)


def rounds_by_call(plan: Plan) -> bool:
    """Whether inputs are rounded by the range that they have in a call, with all samples in it."""
    return any(FORMATS[precision].inputs == "dynamic" for precision in plan.precisions.values())


def equality_check(name: str, outputs: Outputs, wanted: Outputs, tolerance: float) -> Check:
    """Whether `outputs` are `wanted`, up to the share `tolerance` of the largest of them."""
    error, allowed = difference_of(outputs, wanted), tolerance * max(1.0, largest_of(wanted))
    count = max(len(each.values) for each in wanted.values())
    detail = f"{' and '.join(wanted)} differ by at most {error:.2g} over {count} samples (tolerance {allowed:.2g})"
    return Check(name=name, passed=error <= allowed, detail=detail)


def budget_checks(
    budget: Budget, limit: float | None, timings: dict[str, WorkloadTiming], target: str | None
) -> list[Check]:
    """Whether the measured latency keeps to the budget."""
    if limit is None:
        return []
    dense, pruned = timings[DENSE].ms, timings[PRUNED].ms
    share = 100 * pruned / limit
    detail = (
        f"measured {pruned:.3g} ms of {limit:.3g} ms ({share:.1f} %), dense {dense:.3g} ms in the same run, "
        f"spread of the rounds {100 * timings[PRUNED].spread:.1f} %"
    )
    if pruned > limit:
        detail += f"; {pruned - limit:.2g} ms too slow: ask for {pruned * 1.02:.3g} ms, or prune again"
    return [Check(name=f"{BUDGET} of {budget}", passed=pruned <= limit, detail=detail)]


def onnx_check(onnx_file: Path) -> Check:
    """Whether the official checker has nothing to say against the graph."""
    import onnx

    try:
        onnx.checker.check_model(str(onnx_file), full_check=True)
    except Exception as error:  # the checker, shape inference and protobuf raise kinds of their own
        return Check(name="valid ONNX", passed=False, detail=(str(error).splitlines() or [type(error).__name__])[0])
    return Check(name="valid ONNX", passed=True, detail=f"{onnx_file.name} passes onnx.checker")


def loss_check(dense: Score, pruned: Score, lost: Loss, max_loss: float) -> Check:
    """The quality gate: what was lost decides as it was measured, however well it is known."""
    detail = f"{lost} of {dense.metric} ({dense.value:.2f} → {pruned.value:.2f}, n = {lost.n})"
    return Check(name=f"at most {max_loss:g} {LOSS}", passed=lost.points <= max_loss, detail=detail)


def headline(
    failed: list[Check], subject: Subject, timings: dict[str, WorkloadTiming], scores: dict[str, Score], lost: Loss
) -> str:
    """The report's first line."""
    if failed:
        return f"FAILED {failed[0].name}: {failed[0].detail}"
    dense, pruned = timings[DENSE].ms, timings[PRUNED].ms
    return (
        f"{subject.name}: {dense:.2f} → {pruned:.2f} ms ({dense / pruned:.2f}×), "
        f"{scores[DENSE].metric} {scores[DENSE].value:.2f} → {scores[PRUNED].value:.2f} "
        f"({lost}, n = {lost.n})"
    )


def metric_record(score: Score) -> MetricRecord:
    """`score` as it is stored."""
    return MetricRecord(
        metric=score.metric, value=score.value, standard_error=score.standard_error, n=score.n
    )


def latency_record(project: Project, timing: WorkloadTiming) -> EngineLatency:
    """`timing` as it is stored."""
    points = [
        PointLatency(
            point=point, median_ms=each.median_ms, p90_ms=each.p90_ms, p95_ms=each.p95_ms, n=each.n,
            spread=each.spread or each.own_spread,  # relative to itself, the reference has none
        )
        for point, each in zip(project.workload, timing.points, strict=True)
    ]
    return EngineLatency(ms=timing.ms, points=points)


def _parameters(model: "PreTrainedModel") -> int:
    return sum(tensor.numel() for tensor in model.parameters())
