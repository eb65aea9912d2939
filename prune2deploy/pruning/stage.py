"""The prune stage: from a project, a table and a budget to a pruned model directory."""

import copy
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.errors import CheckFailedError, InputError
from prune2deploy.files import refuse_existing, sha256_of, staged_directory
from prune2deploy.models.checkpoint import (
    FitRound,
    Provenance,
    PrunedRecord,
    StageResult,
    digest_of_model,
    load_dense,
    read_pruned_record,
    resolve_model,
    save_pruned,
)
from prune2deploy.models.onnx_model import dense_onnx
from prune2deploy.models.registry import family_of
from prune2deploy.profiling.table import LatencyTable, check_matches, read_table, table_path
from prune2deploy.progress import Progress
from prune2deploy.provenance import versions
from prune2deploy.pruning.calibrate import Calibration
from prune2deploy.pruning.costs import Costs, FlopCosts, LatencyCosts
from prune2deploy.pruning.fit import AIM, ROUNDS, Candidate, EngineBench, fit_to_engine, floor_of, refuse_silly
from prune2deploy.pruning.method import Method, State
from prune2deploy.pruning.registry import DEFAULT_METHOD, method_named
from prune2deploy.pruning.streams import Reconstruction, lengths_of
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.base import Samples, Task
from prune2deploy.tasks.predict import outputs_of, score_of, score_outputs, torch_run
from prune2deploy.tasks.registry import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EQUAL = 1e-5  # masked against shrunk logits, relative to the largest logit
HELD_OUT = 256  # calibration samples that no statistics are taken from
AWAY_MARGIN = 0.03  # of the budget, kept free where the target device is not here to measure on


def prune(
    project: Project, budget: Budget, out: Path, method: str = DEFAULT_METHOD, table: Path | None = None,
    progress: Progress | None = None, aim: float = AIM,
) -> PrunedRecord:
    """Prune the project's model to `budget` and write it to the directory `out`.

    With the target device's own table, candidates are built and measured until one meets the budget. With a `table`
    brought from another machine nothing can be measured here: the search then stays 3 % below the budget, and `export`
    on the target has the last word.

    Raises InputError for what a user can mend, UnreachableBudgetError, CheckFailedError where the measured engine does
    not keep to the budget, and UnstableMeasurementError.
    """
    progress = progress or Progress()
    refuse_existing(out)
    chosen = method_named(method)
    directory = resolve_model(project.model, project.root)
    model = load_dense(directory)
    task = task_of(project, directory, model.config)
    samples, held_out = calibration_samples(task, project)
    evaluation = task.evaluation()
    source, digest = digest_of_model(directory), samples.digest()
    key = hashlib.sha256(f"{source}{digest}{project.calibration.seed}".encode()).hexdigest()[:16]
    state = project.state / "prune" / key
    state.mkdir(parents=True, exist_ok=True)

    found = None if budget.kind == "flops" else find_table(project, model, table)
    if found:
        refuse_silly(found[0], budget)
    watch = Stopwatch()
    instance = chosen(Calibration(model, task, samples, project.calibration.seed, progress, state))
    calibrating = watch.lap()
    if found:
        costs: Costs = LatencyCosts(found[0])
        if table is None:
            dense_file = dense_onnx(model, task, project.state / "dense", source)
            bench = EngineBench(model, task, project, runtime_for(project.target), dense_file, state, progress)
            fitted = fit_to_engine(lambda ms: instance.search(costs, ms), bench.measure, found[0], budget, progress, aim)
        else:
            fitted = away_from_target(instance, costs, found[0], budget)
        target = fitted[0].predicted_ms
    else:
        costs = FlopCosts(instance.signature, float(lengths_of(model, samples).mean()))
        target = budget.value
        fitted = (Candidate(instance.search(costs, target), 0, 0, 0, 0), [])
    plan = fitted[0].plan

    stages = Stages(model, task, held_out, evaluation, progress)
    dense = stages.dense(calibrating)
    pruned = State(plan, instance.masked(plan))
    stages.add("search", pruned, watch.lap())
    for name, step in instance.steps(costs, max(target, costs.fixed)):
        watch.lap()
        improved = step(copy.deepcopy(pruned))
        if stages.add(name, improved, watch.lap()):
            pruned = State(improved.plan, improved.model)
    shrunk, difference = shrunk_equal(pruned, evaluation)
    provenance = Provenance(
        source=project.model, source_sha256=source, task=task.name, method=method, budget=budget,
        predicted_ms=fitted[0].predicted_ms if found else None, table=found[1].name if found else None,
        table_sha256=sha256_of(found[1]) if found else None, device=found[0].device.name if found else None,
        fitted=[FitRound(predicted_ms=r.predicted_ms, measured_ms=r.measured_ms, dense_ms=r.dense_ms) for r in fitted[1]],
        data=project.data.path, calibration_sha256=digest, calibration_samples=len(samples),
        labels=instance.labels, seed=project.calibration.seed, threads=_torch_threads(),
        versions=versions(), equality_error=difference, stages=[dense, *stages.results],
    )  # fmt: skip
    with staged_directory(out) as partial:
        save_pruned(shrunk, pruned.plan, provenance, directory, partial)
    return read_pruned_record(out)


def calibration_samples(task: Task, project: Project) -> tuple[Samples, Samples]:
    """(samples for statistics, samples held out from them to judge each stage on)."""
    wanted = project.calibration.samples
    samples = task.calibration(wanted + HELD_OUT, project.calibration.seed)
    count = min(HELD_OUT, len(samples) // 8)
    if count == 0:
        raise InputError(f"data {project.data.path!r}: {len(samples)} samples are too few to calibrate on; give 8 or more")
    order = np.random.default_rng(project.calibration.seed).permutation(len(samples))
    held_out, rest = sorted(order[:count].tolist()), sorted(order[count:].tolist())
    return samples.select(rest[:wanted]), samples.select(held_out)


def find_table(project: Project, model: "PreTrainedModel", given: Path | None) -> tuple[LatencyTable, Path]:
    """The latency table `given`, or else this device's; raises InputError where it does not fit the project."""
    signature = family_of(model.config).signature(model.config)
    if given is not None:
        table = read_table(given)
        return check_matches(table, given, signature, project.workload, project.target, None, None), given
    runtime = runtime_for(project.target)
    device, described = runtime.device(), runtime.describe()
    path = table_path(project.profiles, device, signature, described, project.target.precision)
    table = read_table(path)
    return check_matches(table, path, signature, project.workload, project.target, device, described), path


def away_from_target(
    method: Method, costs: Costs, table: LatencyTable, budget: Budget
) -> tuple[Candidate, list[Candidate]]:
    """The plan that the table alone says is a margin below the budget."""
    limit = refuse_silly(table, budget)
    target = goal = max((1 - AWAY_MARGIN) * limit, floor_of(table))
    for _ in range(ROUNDS):
        plan = method.search(costs, target)
        predicted = costs.total(plan.widths(method.calibration.blocks))
        if predicted <= goal * (1 + 1e-9):
            return Candidate(plan, predicted, 0.0, 0.0, predicted / limit), []
        target = max(target - (predicted - goal), floor_of(table))  # the method's own idea of costs is not the table's
    raise CheckFailedError(
        f"{method.name} found no plan within the budget: its last one takes {predicted:.3g} ms by the table, "
        f"and {goal:.3g} ms are allowed"
    )


class Stages:
    """Measures what every stage leaves of the model, on the same samples."""

    def __init__(
        self, dense: "PreTrainedModel", task: Task, held_out: Samples, evaluation: Samples, progress: Progress
    ):
        self.task, self.evaluation, self.held_out, self.progress = task, evaluation, held_out, progress
        self.outputs = outputs_of(torch_run(dense), evaluation)
        self.held_out_outputs = outputs_of(torch_run(dense), held_out)
        self.reconstruction = Reconstruction(dense, held_out)
        self.results: list[StageResult] = []
        self.best = float("inf")

    def dense(self, seconds: float) -> StageResult:
        """The dense model's own score; `seconds`: what calibration took."""
        score = score_outputs(self.outputs, self.task, self.evaluation, self.outputs)
        return StageResult(
            stage="dense", score=score.value, standard_error=score.standard_error, metric=score.metric, n=score.n,
            reconstruction_error=0.0, divergence=0.0, seconds=round(seconds, 2), notes=["seconds: calibration"],
        )  # fmt: skip

    def add(self, stage: str, state: State, seconds: float) -> bool:
        """Score `state` after `stage`, which took `seconds`; whether it is the nearest to the dense model so far.

        What decides is held out from statistics and from evaluation; the evaluation score is reported, never used.
        """
        run = torch_run(state.model)
        with self.progress.track(f"scoring after {stage}", 1) as advance:
            score = score_of(run, self.task, self.evaluation, self.outputs)
            divergence = self.task.divergence(outputs_of(run, self.held_out), self.held_out_outputs)
            error = self.reconstruction.error(state.model)
            advance()
        if not np.isfinite(divergence):
            raise CheckFailedError(f"{stage} broke the model: its outputs are not finite")
        kept = divergence <= self.best
        notes = list(state.notes)
        if kept:
            self.best = divergence
        else:
            notes.append(f"not kept: on held-out samples the divergence rose from {self.best:.4f} to {divergence:.4f}")
        self.results.append(StageResult(
            stage=stage, score=score.value, standard_error=score.standard_error, metric=score.metric, n=score.n,
            reconstruction_error=error, divergence=divergence, kept=kept, seconds=round(seconds, 2), notes=notes,
        ))  # fmt: skip
        self.progress.note(f"after {stage}: {score}, reconstruction error {error:.3f}, divergence {divergence:.4f}")
        for note in notes:
            self.progress.note(f"{stage}: {note}")
        return kept


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return seconds


def shrunk_equal(state: State, samples: Samples) -> tuple["PreTrainedModel", float]:
    """The shrunk model, and how far its logits are from the masked one's; raises CheckFailedError beyond rounding."""
    from prune2deploy.models.surgery import shrink_

    shrunk = copy.deepcopy(state.model)
    shrink_(shrunk, state.plan)
    some = samples.select(list(range(min(32, len(samples)))))
    masked, small = outputs_of(torch_run(state.model), some), outputs_of(torch_run(shrunk), some)
    difference = float(np.abs(masked - small).max())
    if not difference <= EQUAL * max(1.0, float(np.abs(masked).max())):
        raise CheckFailedError(f"shrinking changed the model: logits differ by {difference:.2g} from the masked model's")
    return shrunk, difference


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
