"""Running samples through a model or an engine."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.tasks.base import Arrays, Samples, Score, Task, tensors
from prune2deploy.tasks.metrics import Metric
from prune2deploy.tasks.paired import Loss, loss_between

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 32
Run = Callable[[Arrays], np.ndarray]


def torch_run(model: "PreTrainedModel") -> Run:
    """`model` as a function from inputs to logits."""
    import torch

    def run(inputs: Arrays) -> np.ndarray:
        with torch.no_grad():
            return model(**tensors(inputs, model.device)).logits.cpu().numpy()

    return run


def outputs_of(run: Run, samples: Samples, batch_size: int = BATCH) -> np.ndarray:
    """Outputs of `run` for all samples, [n, ...], in their order."""
    rows: dict[int, np.ndarray] = {}
    for indices, batch in samples.batches(batch_size):
        rows |= dict(zip(indices, run(batch.inputs), strict=True))
    return np.stack([rows[index] for index in range(len(samples))])


def metric_of(run: Run, task: Task, samples: Samples, labels: np.ndarray) -> Metric:
    """The task metric of `run` over `samples`, batch by batch, so that no outputs are kept.

    Args:
        run: from inputs to the task's one output.
        task: what the samples are of.
        samples: with or without labels of their own.
        labels: [n, ...], what is right.
    """
    metric = task.metric()
    [output] = task.outputs
    for indices, batch in samples.batches(BATCH):
        metric.update({output: run(batch.inputs)}, labels[indices], batch.valid)
    return metric


def score_outputs(outputs: np.ndarray, task: Task, samples: Samples, reference: np.ndarray) -> Score:
    """The task metric of `outputs`; where the data has no labels, the agreement with the dense model's predictions.

    Args:
        outputs: [n, ...], of a model or an engine.
        task: what the samples are of.
        samples: with or without labels.
        reference: the dense model's outputs for the samples.
    """
    score = task.score(outputs, labels_of(task, samples, reference))
    if samples.labels is not None:
        return score
    return Score(f"{score.metric} against the dense model", score.value, score.standard_error, score.n)


def loss_of(outputs: np.ndarray, task: Task, samples: Samples, reference: np.ndarray) -> Loss:
    """What `outputs` lose of that metric against the dense model's `reference`."""
    return loss_between(task, reference, outputs, labels_of(task, samples, reference))


def labels_of(task: Task, samples: Samples, reference: np.ndarray) -> np.ndarray:
    """The labels of `samples`; what the dense model says, where they have none."""
    return task.predictions(reference) if samples.labels is None else samples.labels
