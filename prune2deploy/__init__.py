"""Prune a fine-tuned Transformer to a measured latency budget and carry it, validated, into production.

The verbs of the command line as functions: `profile`, `prune`, `frontier`, `export`, `validate`, `run`, `compare`, and
`load`, which brings a pruned model back. They are imported when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune2deploy.budget import Budget
    from prune2deploy.closed_loop import run
    from prune2deploy.comparison.stage import compare
    from prune2deploy.config import Project, load_project
    from prune2deploy.exporting.recheck import validate
    from prune2deploy.exporting.stage import export
    from prune2deploy.frontiers.stage import frontier
    from prune2deploy.initialise import init
    from prune2deploy.models.checkpoint import load
    from prune2deploy.profiling.stage import profile
    from prune2deploy.pruning.stage import prune
    from prune2deploy.repository.check import check_repository
    from prune2deploy.repository.versions import rollback
    from prune2deploy.serving.bench import bench

__version__ = "0.1.0"
__all__ = [
    "Budget", "Project", "bench", "check_repository", "compare", "export", "frontier", "init", "load", "load_project",
    "profile", "prune", "rollback", "run", "validate",
]  # fmt: skip

_HOMES = {
    "Budget": "budget",
    "Project": "config",
    "bench": "serving.bench",
    "check_repository": "repository.check",
    "compare": "comparison.stage",
    "export": "exporting.stage",
    "frontier": "frontiers.stage",
    "init": "initialise",
    "load": "models.checkpoint",
    "load_project": "config",
    "profile": "profiling.stage",
    "prune": "pruning.stage",
    "rollback": "repository.versions",
    "run": "closed_loop",
    "validate": "exporting.recheck",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
