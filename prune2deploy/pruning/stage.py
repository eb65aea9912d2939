"""The prune stage: from a project, a table and a budget to a pruned model directory."""

from pathlib import Path

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.files import refuse_existing
from prune2deploy.models.checkpoint import PrunedRecord
from prune2deploy.progress import Progress
from prune2deploy.pruning.fit import AIM
from prune2deploy.pruning.registry import DEFAULT_METHOD
from prune2deploy.pruning.workbench import Workbench


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
    refuse_existing(out)
    workbench = Workbench(project, method, table, progress)
    return workbench.save(workbench.prune_to(budget, aim), out)
