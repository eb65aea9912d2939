"""All of it: profile where there is no table, prune, export, and go round again while the measured budget is missed."""

from dataclasses import dataclass, replace
from pathlib import Path

from prune2deploy.budget import Budget, refuse_silly_loss
from prune2deploy.config import Project
from prune2deploy.errors import BudgetMissedError, CheckFailedError, InputError, LossExceededError
from prune2deploy.exporting.stage import export, refuse_other
from prune2deploy.exporting.witnessed import refuse_unservable
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import read_pruned_record, resolve_model
from prune2deploy.models.configuration import load_config
from prune2deploy.models.signature import signature_of
from prune2deploy.models.table import check_matches, read_table, table_path
from prune2deploy.profiling.stage import profile
from prune2deploy.progress import Progress
from prune2deploy.pruning.fastest import SLOWEST, fastest
from prune2deploy.pruning.methods.registry import DEFAULT_METHOD
from prune2deploy.pruning.search.fit import AIM
from prune2deploy.pruning.shelf import Shelf
from prune2deploy.pruning.workbench import Workbench
from prune2deploy.repository.manifest import entry_name
from prune2deploy.repository.triton import import_schema
from prune2deploy.runtimes.quiet import patient
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.team import refuse_team
from prune2deploy.validation.record import Report

ATTEMPTS = 3
LOWEST_AIM = 0.85  # of the aim before: a final measurement further off than that is no steady difference
SLOWER = 0.93  # of the speedup, that is tried when the fastest model within a loss lost more on the evaluation split


@alone
@patient
def run(
    project: Project, budget: Budget | None, repository: Path, name: str | None = None, method: str = DEFAULT_METHOD,
    max_loss: float | None = None, force: bool = False, progress: Progress | None = None,
) -> Report:
    """From a project and a budget to a validated package in `repository`.

    Without a budget: the fastest model that loses at most `max_loss` points, on unseen calibration samples and then on
    the evaluation split, where a slower one is taken if it does not. Interrupted, it goes on where it stopped: the
    table, calibration statistics, exported graphs and the pruned model are kept in the project's `.prune2deploy` until
    the package is there. Raises what the stages raise; CheckFailedError when the exported artifact misses its budget
    after a few rounds.
    """
    refuse_team("run")
    refuse_silly_loss(max_loss)
    progress = progress or Progress()
    if budget is not None and budget.kind == "flops":
        raise InputError("run promises a measured latency: give --latency-ms or --speedup (prune takes --flops)")
    import_schema()  # what is missing is said before the work
    name = entry_name(name, project)
    refuse_other(repository, name, project)
    workbench = Workbench(project, method, progress=progress)  # data that cannot be used is said before measuring
    refuse_unservable(project, workbench.task)
    ensure_table(project, progress)
    shelf = Shelf(workbench)
    attempt = Attempt(budget or fastest_budget(shelf, max_loss), AIM, by_loss=budget is None)
    for left in reversed(range(ATTEMPTS)):
        pruned = shelf.at(attempt.budget, attempt.aim)
        try:
            report = export(project, pruned, repository, name, max_loss=max_loss, progress=progress)
            break
        except CheckFailedError as error:
            following = attempt.after(error) if left else None
            if following is not None:
                progress.note(f"{error}; trying again: {following}")
                attempt = following
                continue
            if not force:
                raise
            report = export(project, pruned, repository, name, max_loss=max_loss, force=True, progress=progress)
            break
    shelf.clear()
    return report


@dataclass(frozen=True)
class Attempt:
    """What is pruned to: a budget, and the share of it that is aimed at; `by_loss`: the budget is ours to choose."""

    budget: Budget
    aim: float
    by_loss: bool

    def after(self, error: CheckFailedError) -> "Attempt | None":
        """What may mend `error`; None where nothing will."""
        if isinstance(error, BudgetMissedError):  # what was aimed at came out as `used`: the next is to come out as AIM
            return replace(self, aim=self.aim * max(AIM / error.used, LOWEST_AIM))
        slower = round(SLOWER * self.budget.value, 2)
        if isinstance(error, LossExceededError) and self.by_loss and slower > SLOWEST:
            return replace(self, budget=Budget(kind="speedup", value=slower))
        return None

    def __str__(self) -> str:
        return f"{self.budget}, aiming at {100 * self.aim:.1f} % of the budget"


def fastest_budget(shelf: Shelf, max_loss: float | None) -> Budget:
    """The speedup of the fastest model on `shelf` that loses at most `max_loss` points."""
    if max_loss is None:
        raise InputError("give a budget, or with max_loss the points that may be lost")
    return read_pruned_record(fastest(shelf, max_loss)).provenance.budget


def ensure_table(project: Project, progress: Progress) -> Path:
    """The latency table of this model on this device, measured where there is none that fits."""
    directory = resolve_model(project.model, project.root)
    config = load_config(directory)
    signature = signature_of(config)
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
    return profile(project, progress)[1]
