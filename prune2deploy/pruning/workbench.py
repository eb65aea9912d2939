"""What pruning to any budget shares: the model, the data, the method with its statistics, the table and the engines."""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.errors import CheckFailedError, InputError
from prune2deploy.files import sha256_of, staged_directory
from prune2deploy.graphs.onnx_model import TRACE_LENGTH, dense_onnx
from prune2deploy.memory import map_large_blocks
from prune2deploy.models.block import Block
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
from prune2deploy.models.input_rounding import exact_inputs
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.models.table import LatencyTable, check_matches, read_table, table_path
from prune2deploy.progress import Progress
from prune2deploy.provenance import COMPUTED, cache_key, versions
from prune2deploy.pruning.compute import compute_device
from prune2deploy.pruning.judge import Stages, Stopwatch
from prune2deploy.pruning.methods.method import Method, State, Step, undoable
from prune2deploy.pruning.methods.registry import DEFAULT_METHOD, method_named
from prune2deploy.pruning.recovery.distil import BATCH, Lesson, distil
from prune2deploy.pruning.recovery.rounding import in_order
from prune2deploy.pruning.search.costs import Costs, FlopCosts, LatencyCosts, PlainCosts, macs_of
from prune2deploy.pruning.search.fit import (
    AIM,
    ROUNDS,
    Candidate,
    EngineBench,
    Search,
    fit_to_engine,
    floor_of,
    refuse_silly,
)
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.lengths import lengths_of
from prune2deploy.pruning.statistics.streams import Streams
from prune2deploy.runtimes.base import Shapes
from prune2deploy.runtimes.processor_kind import saturates
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.base import Samples, Task, tensors
from prune2deploy.tasks.objectives import difference_of, largest_of
from prune2deploy.tasks.predict import outputs_of, torch_run
from prune2deploy.tasks.registry import task_of
from prune2deploy.team import ShareDone, team

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EQUAL = 1e-5  # masked against shrunk logits, relative to the largest logit
HELD_OUT = 256  # calibration samples that no statistics are taken from
UNSEEN = 2048  # of the others, on which a loss is taken that nothing is fitted to
AWAY_MARGIN = 0.03  # of the budget, kept free where the target device is not here to measure on


@dataclass(frozen=True)
class Pruned:
    """What pruning to one budget gives. `state`: masked; `rounds`: every candidate that was measured."""

    budget: Budget
    state: State
    candidate: Candidate
    rounds: list[Candidate]
    results: list[StageResult]


class Workbench:
    """Prunes one project's model, with one method and one pass of statistics, to as many budgets as wanted."""

    def __init__(
        self, project: Project, method: str = DEFAULT_METHOD, table: Path | None = None, progress: Progress | None = None
    ):
        """`table`: one from another machine; nothing is measured here then. Raises InputError."""
        map_large_blocks()
        self.project, self.progress, self.given_table = project, progress or Progress(), table
        self.chosen = method_named(method)
        if project.calibration.effort and not self.chosen.takes_effort:
            raise InputError(f"--method {method} takes no --effort: only ours tries further profiles")
        self.compute = compute_device(project.calibration.device, self.chosen)
        self.directory = resolve_model(project.model, project.root)
        self.model = load_dense(self.directory)
        refuse_other_layers(self.chosen, self.model)
        self.task = task_of(project, self.directory, self.model.config)
        self.samples, self.held_out, self.left_over = calibration_samples(self.task, project)
        self.evaluation = self.task.evaluation()
        self.source, self.digest = digest_of_model(self.directory), self.samples.digest()
        key = cache_key(COMPUTED, self.source, self.digest, project.calibration.seed, self.compute.type)
        self.state = project.state / "prune" / key
        self.state.mkdir(parents=True, exist_ok=True)
        self.calibration_seconds = 0.0

    @cached_property
    def table(self) -> tuple[LatencyTable, Path]:
        """The latency table and its file; raises InputError where there is none that fits."""
        return find_table(self.project, self.model, self.given_table)

    @cached_property
    def working(self) -> "PreTrainedModel":
        """The dense model where pruning computes: the same one on a CPU, a copy on a GPU."""
        return self.model if self.compute.type == "cpu" else copy.deepcopy(self.model).to(self.compute)

    @cached_property
    def method(self) -> Method:
        """The method, with its statistics taken; raises ShareDone in every process but the first."""
        watch = Stopwatch()
        calibration = Calibration(
            self.working, self.task, self.samples, self.project.calibration.seed, self.progress, self.state,
            self.project.calibration.effort, self.narrow,
        )  # fmt: skip
        method = self.chosen(calibration)
        self.calibration_seconds = watch.lap()
        if not team().leads:
            raise ShareDone
        return method

    @cached_property
    def narrow(self) -> bool:
        """Whether 8-bit weights have 7 bits on the target (`precisions.Format`)."""
        if self.given_table is not None:
            return saturates(self.table[0].device.instructions)
        return bool(self.project.target.block_precisions) and runtime_for(self.project.target).narrow

    @cached_property
    def bench(self) -> EngineBench:
        """Where candidates are measured against the dense engine."""
        dense = dense_onnx(self.model, self.task, self.project.state / "dense", self.source)
        shapes = Shapes(self.project.workload, self.task.axis_limits())
        runtime = runtime_for(self.project.target, shapes, self.project.state)
        return EngineBench(self.model, self.task, self.project, runtime, dense, self.state, self.progress)

    @cached_property
    def stages(self) -> Stages:
        """The judge of all stages, with the dense model's outputs."""
        return Stages(self.working, self.task, self.held_out, self.evaluation, self.progress)

    def prune_to(self, budget: Budget, aim: float = AIM) -> Pruned:
        """Search, and recover what the search left; `aim`: share of the budget that measured candidates should use.

        Raises InputError and UnreachableBudgetError before statistics are taken where the table says so, and
        CheckFailedError where no measured candidate keeps to the budget.
        """
        if budget.kind != "flops":
            self.refuse_silly(budget)
        method = self.method
        watch = Stopwatch()
        costs, candidate, rounds = self._search(budget, aim)
        stages = self.stages.afresh()
        dense = stages.dense(self.calibration_seconds)
        state = State(candidate.plan, method.masked(candidate.plan))
        stages.add("search", state, watch.lap())
        target = budget.value if budget.kind == "flops" else candidate.predicted_ms
        steps = [*method.steps(costs, max(target, costs.fixed)), *self._training()]
        for name, step in steps:
            undo = undoable(state)
            watch.lap()
            state = step(state)
            state = State(state.plan, state.model) if stages.add(name, state, watch.lap()) else undo()
        if state.plan.precisions:
            watch.lap()
            self._round(state)
            stages.add("rounding", state, watch.lap(), asked_for=True)
        return Pruned(budget, state, candidate, rounds, [dense, *stages.results])

    def _round(self, state: State) -> None:
        """Bring the blocks of `state` that are in a lower precision there, in place."""
        method, samples = self.method, self.method.calibration.samples
        streams = Streams(self.working, state.model, samples, method.token_weights)
        with self.progress.track("rounding", len(streams.blocks_in_order)) as advance:
            for _, found in in_order(streams, state.plan, self.narrow):
                state.roundings |= found
                advance()

    def _training(self) -> list[tuple[str, Step]]:
        """What is trained at the end, where the project asks for it."""
        settings, seed = self.project.recovery, self.project.calibration.seed
        if settings.train is None:
            return []
        lesson = Lesson(self.working, self.task, self._to_learn_from(), settings, seed, self.state)

        def step(state: State) -> State:
            distil(lesson, state.model, state.plan, self.progress)
            return state

        return [("distillation", step)]

    def _to_learn_from(self) -> list[Samples]:
        """The samples that statistics are of, and others of the calibration split, but none that anything is judged on.

        As many as training sees, where there are so many.
        """
        calibration, missing = self.project.calibration, self.project.recovery.steps * BATCH - len(self.samples)
        if missing <= 0:
            return [self.samples]
        others = self.task.reserve(missing, calibration.seed, calibration.samples + HELD_OUT, passed=UNSEEN)
        return [self.samples, others] if others is not None else [self.samples]

    def refuse_silly(self, budget: Budget) -> float:
        """As `fit.refuse_silly`; milliseconds are judged by what the dense model takes today, where that can be measured."""
        alone = team().size == 1  # several processes would measure at once, each in the way of the others
        return refuse_silly(self.table[0], budget, self._dense_ms(budget) if alone else None)

    def _dense_ms(self, budget: Budget) -> float | None:
        return self.bench.dense_ms if budget.kind == "latency_ms" and self.given_table is None else None

    def _search(self, budget: Budget, aim: float) -> tuple[Costs, Candidate, list[Candidate]]:
        method = self.method
        if budget.kind == "flops":
            one = tensors(self.task.synthetic_inputs(1, TRACE_LENGTH))
            tokens = float(lengths_of(self.model, self.samples).mean())
            flops = FlopCosts(macs_of(self.model, method.calibration.blocks, one, tokens))
            return flops, Candidate(method.search(flops, budget.value), 0, 0, 0, 0), []
        table, target = self.table[0], self.project.target
        costs = LatencyCosts(table, None if target.precision == "auto" and method.mixes else target.precision)
        seen = costs if method.mixes else PlainCosts(costs)

        def search(limit: float) -> Plan:
            plan = method.search(seen, limit)
            return plan if method.mixes else in_first_precision(plan, costs, method.calibration.blocks)

        if self.given_table is not None:
            return seen, *away_from_target(search, method, costs, table, budget)
        fitted = fit_to_engine(
            search, self.bench.measure, table, budget, self.progress, aim, self._dense_ms(budget),
        )  # fmt: skip
        return seen, *fitted

    def save(self, pruned: Pruned, out: Path) -> PrunedRecord:
        """Shrink, check that it is the same, and write the model directory `out`."""
        with exact_inputs(pruned.state.model):
            shrunk, difference = shrunk_equal(pruned.state, self.task, self.evaluation)
        measured = pruned.budget.kind != "flops"
        path = self.table[1] if measured else None
        provenance = Provenance(
            source=self.project.model, source_sha256=self.source, task=self.task.name, method=self.chosen.name,
            budget=pruned.budget, predicted_ms=pruned.candidate.predicted_ms if measured else None,
            table=path.name if path else None, table_sha256=sha256_of(path) if path else None,
            device=self.table[0].device.name if measured else None,
            fitted=[
                FitRound(predicted_ms=r.predicted_ms, measured_ms=r.measured_ms, dense_ms=r.dense_ms) for r in pruned.rounds
            ],
            data=self.project.data.path, calibration_sha256=self.digest, calibration_samples=len(self.samples),
            labels=self.method.labels, seed=self.project.calibration.seed, effort=self.project.calibration.effort,
            computed_on=self.project.calibration.device, threads=_torch_threads(), versions=versions(),
            equality_error=difference, stages=pruned.results,
        )  # fmt: skip
        with staged_directory(out) as partial:
            save_pruned(shrunk, pruned.state.plan, provenance, self.directory, partial, pruned.state.roundings)
        return read_pruned_record(out)


def refuse_other_layers(method: type[Method], model: "PreTrainedModel") -> None:
    """Raise InputError where `method` only knows models of equal layers, and `model` has others."""
    signature = signature_of(model.config)
    alike = list(signature.curves) == signature.kinds == ["attention", "ffn"] and not signature.calls
    if method.equal_layers and not alike:
        raise InputError(
            f"--method {method.name} is for models of equal layers, an attention and an FFN each, which this "
            f"{signature.family} is not: use --method ours"
        )


def calibration_samples(task: Task, project: Project) -> tuple[Samples, Samples, Samples]:
    """(samples for statistics, samples held out from them to judge each stage on, what a small split has beyond)."""
    wanted = project.calibration.samples
    samples = task.calibration(wanted + HELD_OUT, project.calibration.seed)
    count = min(HELD_OUT, len(samples) // 8) // samples.together * samples.together
    if count == 0:
        raise InputError(f"data {project.data.path!r}: {len(samples)} samples are too few to calibrate on; give 8 or more")
    order = samples.drawn(project.calibration.seed)
    held_out, rest = sorted(order[:count]), sorted(order[count:])
    return samples.select(rest[:wanted]), samples.select(held_out).first(HELD_OUT), samples.select(rest[wanted:])


def find_table(project: Project, model: "PreTrainedModel", given: Path | None) -> tuple[LatencyTable, Path]:
    """The latency table `given`, or else this device's; raises InputError where it does not fit the project."""
    signature = signature_of(model.config)
    if given is not None:
        table = read_table(given)
        return check_matches(table, given, signature, project.workload, project.target, None, None), given
    runtime = runtime_for(project.target)
    device, described = runtime.device(), runtime.describe()
    path = table_path(project.profiles, device, signature, described, project.target.precision)
    table = read_table(path)
    return check_matches(table, path, signature, project.workload, project.target, device, described), path


def away_from_target(
    search: Search, method: Method, costs: Costs, table: LatencyTable, budget: Budget
) -> tuple[Candidate, list[Candidate]]:
    """The plan that the table alone says is a margin below the budget."""
    limit = refuse_silly(table, budget)
    target = goal = max((1 - AWAY_MARGIN) * limit, floor_of(table))
    for _ in range(ROUNDS):
        plan = search(target)
        predicted = costs.total(plan.widths(method.calibration.blocks), plan.precisions)
        if predicted <= goal * (1 + 1e-9):
            return Candidate(plan, predicted, 0.0, 0.0, predicted / limit), []
        target = max(target - (predicted - goal), floor_of(table))  # the method's own idea of costs is not the table's
    raise CheckFailedError(
        f"{method.name} found no plan within the budget: its last one takes {predicted:.3g} ms by the table, "
        f"and {goal:.3g} ms are allowed"
    )


def in_first_precision(plan: Plan, costs: Costs, blocks: list[Block]) -> Plan:
    """`plan` with every block in the first precision that `costs` has for it."""
    first = {block.key: lower for block in blocks if plan.units(block) and (lower := costs.precisions(block)[0])}
    return plan.model_copy(update={"precisions": first})


def shrunk_equal(state: State, task: Task, samples: Samples) -> tuple["PreTrainedModel", float]:
    """The shrunk model, and how far its outputs are from the masked one's; raises CheckFailedError beyond rounding."""
    from prune2deploy.models.surgery import shrunk

    whole = state.model if state.model.device.type == "cpu" else copy.deepcopy(state.model).cpu()
    slim = shrunk(whole, state.plan)
    some = samples.first(32)
    masked, small = (outputs_of(torch_run(model, task), task, some) for model in (whole, slim))
    difference, largest = difference_of(small, masked), largest_of(masked)
    if not difference <= EQUAL * max(1.0, largest):
        raise CheckFailedError(f"shrinking changed the model: outputs differ by {difference:.2g} from the masked model's")
    return slim, difference


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
