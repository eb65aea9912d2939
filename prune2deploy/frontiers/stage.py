"""The frontier stage: one pass of statistics, one pruned model for every budget, and what each measured."""

import datetime
import shutil
from pathlib import Path

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.errors import CheckFailedError, InputError
from prune2deploy.files import refuse_existing, staged_directory, write_record, write_text
from prune2deploy.frontiers.picture import draw
from prune2deploy.frontiers.record import FRONTIER_FILE, Frontier, Missed, point_of
from prune2deploy.lock import alone
from prune2deploy.models.checkpoint import PrunedRecord, read_pruned_record
from prune2deploy.models.table import LatencyTable
from prune2deploy.progress import Progress
from prune2deploy.provenance import versions
from prune2deploy.pruning.methods.registry import DEFAULT_METHOD
from prune2deploy.pruning.search.fit import highest_speedup
from prune2deploy.pruning.shelf import Shelf
from prune2deploy.pruning.workbench import Workbench
from prune2deploy.runtimes.quiet import patient

SPEEDUPS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)


@alone
@patient
def frontier(
    project: Project, budgets: list[Budget] | None = None, out: Path = Path("frontier"), method: str = DEFAULT_METHOD,
    progress: Progress | None = None,
) -> Frontier:
    """Prune the project's model to each of `budgets`, and write models, measurements and a picture to `out`.

    By default budgets are the speedups 1.25 to 4, as far as they are within reach. Interrupted, it goes on with the
    budget it was at. A budget that no measured model kept to is listed as missed. Raises InputError for a budget that
    makes no sense before anything is pruned, and CheckFailedError where every budget is missed.
    """
    refuse_existing(out)
    workbench = Workbench(project, method, progress=progress)
    shelf = Shelf(workbench)
    table = workbench.table[0]
    chosen = within_reach(table) if budgets is None else list({budget.slug: budget for budget in budgets}.values())
    if not chosen:
        raise InputError(f"no speedup from {SPEEDUPS[0]:g} on is within reach of this model; name budgets with --speedup")
    limits = {budget.slug: workbench.refuse_silly(budget) for budget in chosen}
    made: dict[Path, PrunedRecord] = {}
    missed: list[Missed] = []
    for number, budget in enumerate(sorted(chosen, key=lambda each: -limits[each.slug]), start=1):
        workbench.progress.note(f"budget {number} of {len(chosen)}: {budget}")
        try:
            directory = shelf.at(budget)
        except CheckFailedError as error:
            workbench.progress.note(f"missed: {error}")
            missed.append(Missed(budget=budget, reason=str(error)))
        else:
            made[directory] = read_pruned_record(directory)
    if not made:
        raise CheckFailedError(f"every budget was missed: {missed[0].reason}")
    found = frontier_of(workbench, list(made.values()), missed)
    with staged_directory(out) as partial:
        for directory, point in zip(made, found.points, strict=True):
            shutil.copytree(directory, partial / point.name)
        write_record(partial / FRONTIER_FILE, found)
        write_text(partial / "frontier.md", "\n".join(found.rows()) + "\n")
        draw(found, partial / "frontier.svg")
    shelf.clear()
    return found


def within_reach(table: LatencyTable) -> list[Budget]:
    """The default budgets that the table says can be met."""
    return [Budget(kind="speedup", value=speedup) for speedup in SPEEDUPS if speedup <= highest_speedup(table)]


def frontier_of(workbench: Workbench, records: list[PrunedRecord], missed: list[Missed]) -> Frontier:
    """What is written down of the models `records`."""
    table, first = workbench.table[0], records[0].provenance
    return Frontier(
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), source=first.source,
        source_sha256=first.source_sha256, method=first.method, device=table.device.name,
        workload=workbench.project.workload, dense_score=first.stages[0].score,
        points=[point_of(record, table.dense_ms) for record in records], missed=missed, versions=versions(),
    )  # fmt: skip
