"""Pruned models on their way to where they belong, so that an interrupted command finds again what it had made."""

import shutil
from pathlib import Path

from prune2deploy.budget import Budget
from prune2deploy.files import sha256_of
from prune2deploy.models.checkpoint import read_pruned_record
from prune2deploy.provenance import EXPORTED, cache_key
from prune2deploy.pruning.search.fit import AIM
from prune2deploy.pruning.workbench import Workbench


class Shelf:
    """What `workbench` prunes to latency budgets, in the project's state, one directory for each budget and aim."""

    def __init__(self, workbench: Workbench):
        """Raises InputError where there is no latency table that fits."""
        self.workbench = workbench
        parts = [
            workbench.source, workbench.digest, workbench.evaluation.digest(), sha256_of(workbench.table[1]),
            workbench.project.model_dump_json(exclude={"measuring"}), workbench.chosen.name,
        ]  # fmt: skip
        self.directory = workbench.project.state / "pruned" / cache_key(EXPORTED, *parts)
        self.used: set[Path] = set()

    def at(self, budget: Budget, aim: float = AIM) -> Path:
        """The directory of the model pruned to `budget`, made now where it is not there; raises what `prune_to` raises."""
        directory = self.directory / f"{budget.slug}-{aim:g}"
        if directory.exists():
            read_pruned_record(directory)
            self.workbench.progress.note(f"going on with the pruned model that an earlier run left in {directory}")
        else:
            self.workbench.save(self.workbench.prune_to(budget, aim), directory)
        self.used.add(directory)
        return directory

    def clear(self) -> None:
        """Remove what was used: it is where it belongs."""
        for directory in self.used:
            shutil.rmtree(directory, ignore_errors=True)
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()
