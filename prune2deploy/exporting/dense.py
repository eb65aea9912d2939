"""The dense model in the form of a pruned one, so that it can be exported beside one."""

import shutil
from pathlib import Path

from prune2deploy.budget import Budget
from prune2deploy.config import Project
from prune2deploy.files import staged_directory
from prune2deploy.models.checkpoint import Provenance, digest_of_model, load_dense, resolve_model, save_pruned
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.provenance import versions


def as_if_pruned(project: Project) -> Path:
    """The project's model with all of its heads and filters, as a pruned model directory in the project's state."""
    import torch

    directory = resolve_model(project.model, project.root)
    model = load_dense(directory)
    everything = {block: range(block.units) for block in blocks_of(model)}
    plan = Plan.of(signature_of(model.config), everything)
    provenance = Provenance(
        source=project.model, source_sha256=digest_of_model(directory), task=project.task, method="none (dense)",
        budget=Budget(kind="none", value=1.0), data=project.data.path, calibration_sha256="", calibration_samples=0,
        labels="none", seed=project.calibration.seed, threads=torch.get_num_threads(), versions=versions(),
    )  # fmt: skip
    out = project.state / "dense-model"
    shutil.rmtree(out, ignore_errors=True)
    with staged_directory(out) as partial:
        save_pruned(model, plan, provenance, directory, partial)
    return out
