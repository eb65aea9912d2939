"""The closed loop: search on the table, build the engine, measure it, correct the target, search again.

Latency depends on the widths alone, so candidates are built and timed before any recovery. Everything is measured
interleaved with the dense engine and in shares of it, because the machine's clock may differ from the table's day.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.errors import CheckFailedError, InputError, UnreachableBudgetError
from prune2deploy.graphs.files import remove_graph
from prune2deploy.graphs.onnx_model import example_inputs, export_onnx, exported_form
from prune2deploy.graphs.reweigh import Template
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.precisions import quantise_for_timing
from prune2deploy.models.table import LatencyTable
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Engine, Runtime
from prune2deploy.runtimes.workload import DENSE, time_workload
from prune2deploy.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AIM = 0.97  # of the budget
ACCEPTED = (0.955, 0.982)  # so that later measurements, with their own noise of 1 to 2 %, are within 95 and 100 %
LAST_RESORT = 0.99
ROUNDS = 6
NEAREST_FLOOR = 0.9  # of the speedup that removing every block gives
PATIENCE, NEARLY = 3, 0.94  # after so many rounds, a candidate that uses this much of the budget will do
Search = Callable[[float], Plan]  # from a target in the table's milliseconds


@dataclass(frozen=True)
class Candidate:
    """One round of the loop. Milliseconds; `used`: share of the budget that was measured."""

    plan: Plan
    predicted_ms: float
    measured_ms: float
    dense_ms: float
    used: float


class EngineBench:
    """Times whole models of given plans against the dense model, each built as it will be exported."""

    def __init__(
        self, model: "PreTrainedModel", task: Task, project: Project, runtime: Runtime, dense: Path, directory: Path,
        progress: Progress,
    ):
        self.model, self.task, self.runtime, self.directory, self.progress = model, task, runtime, directory, progress
        self.workload = [
            (point, task.timing_inputs(point.batch, point.seq_len)) for point in project.workload
        ]
        self.dense_file = dense

    @cached_property
    def dense_ms(self) -> float:
        """Milliseconds of the dense model over the workload, as this machine's clock is today."""
        engines: dict[str, Engine] = {DENSE: self.runtime.build(self.dense_file)}
        return time_workload(engines, self.workload, self.progress, "measuring the dense model")[DENSE].ms

    def measure(self, plan: Plan) -> tuple[float, float]:
        """(milliseconds of the model that `plan` leaves, milliseconds of the dense model), over the workload."""
        from prune2deploy.models.surgery import shrunk

        slim = shrunk(self.model, plan)
        path = self.directory / "candidate.onnx"
        remove_graph(path)
        with self.progress.track("building the candidate", 1) as advance:
            template = Template(self.dense_file, exported_form(self.model, self.task), example_inputs(self.task))
            if not template.write(exported_form(slim, self.task), path):
                export_onnx(slim, self.task, path)
            blocks = blocks_of(self.model)
            quantise_for_timing(path, exported_form(slim, self.task), plan, blocks, self.runtime.narrow)
            del template  # it holds the dense model's weights once more
            advance()
        # the dense engine anew, too: one that has run the points after the first is not what the candidate is
        engines = {DENSE: self.runtime.build(self.dense_file), "candidate": self.runtime.build(path)}
        try:
            timings = time_workload(engines, self.workload, self.progress, "measuring the candidate")
        finally:
            remove_graph(path)
        return timings["candidate"].ms, timings[DENSE].ms


def fit_to_engine(
    search: Search, measure: Callable[[Plan], tuple[float, float]], table: LatencyTable, budget: Budget,
    progress: Progress, aim: float = AIM, dense_ms: float | None = None,
) -> tuple[Candidate, list[Candidate]]:
    """The candidate that uses the budget best without exceeding it, and all that were measured.

    `dense_ms`: what the dense model takes here today; None: what the table says. Raises UnreachableBudgetError before
    anything is measured where the table says so, and CheckFailedError, naming what was reached, where no round met the
    budget.
    """
    limit = refuse_silly(table, budget, dense_ms)
    lowest, highest, nearly, most = (share - AIM + aim for share in (*ACCEPTED, NEARLY, LAST_RESORT))
    target = aim * limit
    rounds: list[Candidate] = []
    for _ in range(ROUNDS):
        plan = search(max(target, floor_of(table)))
        if any(plan == past.plan for past in rounds):
            break  # the grid of widths has no plan between the ones that were measured
        measured, dense = measure(plan)
        predicted = table.predict_ms(plan.widths_by_key(), plan.precisions)
        limit = budget.limit_ms(dense)
        if limit >= dense:
            raise InputError(f"a budget of {budget} asks for nothing: the dense model measures {dense:.3g} ms here")
        rounds.append(Candidate(plan, predicted, measured, dense, measured / limit))
        progress.note(
            f"predicted {predicted * dense / table.dense_ms:.2f} ms, measured {measured:.2f} ms "
            f"({100 * measured / limit:.1f} % of the budget)"
        )
        if lowest <= rounds[-1].used <= highest:
            return rounds[-1], rounds
        if len(rounds) >= PATIENCE and any(nearly <= r.used <= most for r in rounds):
            break
        # by what factor the table is off, over all rounds: a single measurement is off by some percent itself
        target = aim * float(np.exp(np.mean([np.log(r.predicted_ms / r.used) for r in rounds])))
    fitting = [r for r in rounds if r.used <= most]
    if not fitting:
        fastest = min(rounds, key=lambda r: r.used)
        raise CheckFailedError(
            f"the budget of {budget} was not met: after {len(rounds)} rounds the nearest model measured "
            f"{fastest.measured_ms:.3g} ms ({100 * fastest.used:.0f} % of the budget); ask for at least that"
        )
    return max(fitting, key=lambda r: r.used), rounds


def refuse_silly(table: LatencyTable, budget: Budget, dense_ms: float | None = None) -> float:
    """The budget in the table's milliseconds; raises where it is above dense or below what is reachable.

    `dense_ms`: what the dense model takes today, when the clock may be another than on the table's day; None: what it took.
    """
    dense_ms = dense_ms or table.dense_ms
    limit, scale = budget.limit_ms(dense_ms), table.dense_ms / dense_ms
    if limit >= dense_ms:
        raise InputError(f"a budget of {budget} asks for nothing: the dense model takes {dense_ms:.3g} ms already")
    if limit * scale < floor_of(table):
        if budget.kind == "speedup":
            raise InputError(
                f"a speedup of {budget.value:g} is out of reach: with every block removed the model is "
                f"{table.dense_ms / floor_of(table):.3g} times as fast; ask for less"
            )
        raise UnreachableBudgetError(limit, floor_of(table) / scale)
    return limit * scale


def floor_of(table: LatencyTable) -> float:
    """What the table says of the model without any block."""
    return table.fixed_ms


def highest_speedup(table: LatencyTable) -> float:
    """What may sensibly be asked for without knowing the model: somewhat less than removing every block gives."""
    return NEAREST_FLOOR * table.dense_ms / max(floor_of(table), 1e-9)
