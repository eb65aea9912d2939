"""Running samples through a model or an engine."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import Prune2DeployError
from prune2deploy.tasks.base import Arrays, Labels, Run, Samples, Score, Task, tensors
from prune2deploy.tasks.by_class import ByClass
from prune2deploy.tasks.metrics import Metric
from prune2deploy.tasks.objectives import IGNORED, Outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 32


def torch_run(model: "PreTrainedModel", task: Task) -> Run:
    """`model` as a function from inputs to the outputs of `task`."""
    import torch

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            said = task.said(model, tensors(inputs, model.device))
        return {name: tensor.cpu().numpy() for name, tensor in said.items()}

    return run


def finite(run: Run, otherwise: Prune2DeployError) -> Run:
    """`run`, which raises `otherwise` where an output is not finite."""

    def checked(inputs: Arrays) -> Arrays:
        said = run(inputs)
        if not all(np.isfinite(output).all() for output in said.values()):
            raise otherwise
        return said

    return checked


def outputs_of(run: Run, task: Task, samples: Samples, batch_size: int = BATCH) -> Outputs:
    """What `run` puts out for all samples, in their order."""
    rows = rows_of(run, task, samples, batch_size)
    return {name: part.gathered(rows[name]) for name, part in task.objective.parts.items()}


def rows_of(run: Run, task: Task, samples: Samples, batch_size: int = BATCH) -> dict[str, list[np.ndarray]]:
    """The same sample by sample: of each what counts (see `Objective.by_sample`)."""
    parts = task.objective.parts
    rows: dict[str, dict[int, np.ndarray]] = {name: {} for name in parts}
    for indices, batch in samples.batches(batch_size):
        said = run(batch.inputs)
        for name, part in parts.items():
            rows[name] |= dict(zip(indices, part.by_sample(said[name], batch.valid), strict=True))
    return {name: [rows[name][index] for index in range(len(samples))] for name in parts}


def labels_of(run: Run, task: Task, samples: Samples) -> Labels:
    """The labels of `samples`; where they have none, what `run`, the dense model, says, batch by batch.

    Labels of positions are then as long as the batch that `metric_of` will make of the same samples.
    """
    if samples.labels is not None:
        return samples.labels
    found: dict[int, np.ndarray] = {}
    for indices, batch in samples.batches(BATCH):
        found |= dict(zip(indices, own_labels(task, run(batch.inputs), batch.valid), strict=True))
    rows = [found[index] for index in range(len(samples))]
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else rows


def own_labels(task: Task, said: Arrays, counted: np.ndarray | None) -> np.ndarray:
    """What a model that `said` this takes for right: [n, ...], or [n, positions, ...] with `IGNORED` where none counts."""
    parts = task.objective.parts
    found = task.predictions({name: part.gathered(part.by_sample(said[name], counted)) for name, part in parts.items()})
    if not any(part.per_position for part in parts.values()):
        return found
    places = np.ones(next(iter(said.values())).shape[:2], dtype=bool) if counted is None else counted
    labels = np.full((*places.shape, *found.shape[1:]), IGNORED, dtype=found.dtype)
    labels[places] = found
    return labels


def metric_of(
    run: Run, task: Task, samples: Samples, labels: Labels, by_class: ByClass | None = None
) -> Metric:
    """The task metric of `run` over `samples`, batch by batch, so that no outputs are kept.

    Two metrics of the same samples have the same order, so that they can be compared sample by sample.

    Args:
        run: from inputs to outputs.
        task: what the samples are of.
        samples: with labels of their own, which are right then, or without.
        labels: what is right where they have none (see `labels_of`).
        by_class: told of every batch, too.
    """
    metric = task.metric(samples)
    for indices, batch in samples.batches(BATCH):
        right = batch.labels if batch.labels is not None else np.stack([labels[index] for index in indices])
        said = run(batch.inputs)
        metric.update(said, right, batch.valid, indices)
        if by_class is not None:
            by_class.update(said, right, batch.valid)
    return metric


def score_of(metric: Metric, samples: Samples) -> Score:
    """What `metric`, of `samples`, came to; says so where labels are what the dense model said."""
    score = metric.score()
    return score if samples.labels is not None else replace(score, metric=f"{score.metric} against the dense model")
