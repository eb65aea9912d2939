"""The prune stage: from a project, a table and a budget to a pruned model directory."""

import shutil
from pathlib import Path

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.errors import InputError
from prune2deploy.files import refuse_existing, staged_directory
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import PrunedRecord, read_pruned_record
from prune2deploy.progress import Progress
from prune2deploy.pruning.fastest import fastest
from prune2deploy.pruning.methods.registry import DEFAULT_METHOD, method_named
from prune2deploy.pruning.shelf import Shelf
from prune2deploy.pruning.workbench import Workbench
from prune2deploy.runtimes.quiet import patient


@alone
@patient
def prune(
    project: Project, budget: Budget | None, out: Path, method: str = DEFAULT_METHOD, table: Path | None = None,
    progress: Progress | None = None, max_loss: float | None = None,
) -> PrunedRecord:
    """Prune the project's model to `budget` and write it to the directory `out`.

    With the target device's own table, candidates are built and measured until one meets the budget. With a `table`
    brought from another machine nothing can be measured here: the search then stays 3 % below the budget, and `export`
    on the target has the last word. Instead of a budget, `max_loss`: the fastest model that loses at most so many points
    of the task metric on calibration samples that nothing was fitted to.

    Raises InputError for what a user can mend, UnreachableBudgetError, CheckFailedError where the measured engine does
    not keep to the budget, and UnstableMeasurementError.
    """
    method_named(method)
    refuse_existing(out)
    if budget is not None and max_loss is None:
        workbench = Workbench(project, method, table, progress)
        return workbench.save(workbench.prune_to(budget), out)
    if budget is not None or max_loss is None:
        raise InputError("give one of a budget and --max-loss (`run` and `export` take a loss beside a budget)")
    shelf = Shelf(Workbench(project, method, table, progress))
    found = fastest(shelf, max_loss)
    with staged_directory(out) as partial:
        shutil.copytree(found, partial, dirs_exist_ok=True)
    shelf.clear()
    return read_pruned_record(out)
