"""Running samples through a model or an engine."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import Prune2DeployError
from prune2deploy.tasks.base import Arrays, Samples, Score, Task, tensors
from prune2deploy.tasks.metrics import Metric
from prune2deploy.tasks.objectives import Outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 32
Run = Callable[[Arrays], Arrays]  # from inputs to outputs, both by name


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
    parts = task.objective.parts
    rows: dict[str, dict[int, np.ndarray]] = {name: {} for name in parts}
    for indices, batch in samples.batches(batch_size):
        said = run(batch.inputs)
        for name, part in parts.items():
            rows[name] |= dict(zip(indices, part.by_sample(said[name], batch.valid), strict=True))
    return {name: part.gathered([rows[name][index] for index in range(len(samples))]) for name, part in parts.items()}


def labels_of(run: Run, task: Task, samples: Samples) -> np.ndarray:
    """The labels of `samples`, [n, ...]; where they have none, what `run`, the dense model, says, batch by batch."""
    if samples.labels is not None:
        return samples.labels
    parts = task.objective.parts
    found: dict[int, np.ndarray] = {}
    for indices, batch in samples.batches(BATCH):
        said = run(batch.inputs)
        outputs = {name: part.gathered(part.by_sample(said[name], batch.valid)) for name, part in parts.items()}
        found |= dict(zip(indices, task.predictions(outputs), strict=True))
    return np.stack([found[index] for index in range(len(samples))])


def metric_of(run: Run, task: Task, samples: Samples, labels: np.ndarray) -> Metric:
    """The task metric of `run` over `samples`, batch by batch, so that no outputs are kept.

    Two metrics of the same samples have the same order, so that they can be compared sample by sample.

    Args:
        run: from inputs to outputs.
        task: what the samples are of.
        samples: with or without labels of their own.
        labels: [n, ...], what is right (see `labels_of`).
    """
    metric = task.metric()
    for indices, batch in samples.batches(BATCH):
        metric.update(run(batch.inputs), labels[indices], batch.valid)
    return metric


def score_of(metric: Metric, samples: Samples) -> Score:
    """What `metric`, of `samples`, came to; says so where labels are what the dense model said."""
    score = metric.score()
    return score if samples.labels is not None else replace(score, metric=f"{score.metric} against the dense model")
