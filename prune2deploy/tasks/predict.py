"""Running samples through a model or an engine."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.tasks.base import Arrays, Samples, Score, Task, tensors

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


def score_of(run: Run, task: Task, samples: Samples, reference: np.ndarray) -> Score:
    """The task metric of `run`; where the data has no labels, the agreement with the dense model's predictions.

    Args:
        run: from inputs to outputs.
        task: what the samples are of.
        samples: with or without labels.
        reference: the dense model's outputs for the samples.
    """
    return score_outputs(outputs_of(run, samples), task, samples, reference)


def score_outputs(outputs: np.ndarray, task: Task, samples: Samples, reference: np.ndarray) -> Score:
    """As `score_of`, for outputs that are there already."""
    if samples.labels is not None:
        return task.score(outputs, samples.labels)
    score = task.score(outputs, task.predictions(reference))
    return Score(f"{score.metric} against the dense model", score.value, score.standard_error, score.n)
