"""Whether labels and model fit together at all: the dense model's score, on a share of the evaluation split."""

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import Arrays, Samples, Score, Task
from prune2deploy.tasks.predict import Run, outputs_of

SCORED = 256  # samples at most: the standard error of an accuracy is then 3 points or less
LEAST = 32
POSITIONS = 16_384  # all samples together, so that long texts and large models take seconds, too
EACH = 256  # positions of a sample whose number is not known


def dense_score(task: Task, run: Run, samples: Samples, force: bool) -> Score:
    """The task metric of the dense model `run` on a share of `samples`, which have labels.

    Raises InputError, unless `force`, where it is below what one answer to everything reaches, or below half of what the
    model's own labels would give.
    """
    some = drawn(samples)
    assert some.labels is not None
    outputs = outputs_of(run, task, some)
    said = {name: output.values for name, output in outputs.items()}
    score = _score(task, said, some.labels)
    constant = _score(task, task.constant(some.labels), some.labels)
    own = _score(task, said, task.predictions(outputs))
    if not force and score.value < max(constant.value, own.value / 2):
        raise InputError(
            f"labels and model do not fit together: the dense model reaches {score} on {task.data.path!r}, one answer to "
            f"everything {constant.value:.2f}, the model's own labels {own.value:.2f}; is it another column, another order "
            "of labels, another model? --force goes on"
        )
    return score


def _score(task: Task, outputs: Arrays, labels: np.ndarray) -> Score:
    metric = task.metric()
    metric.update(outputs, labels)
    return metric.score()


def drawn(samples: Samples) -> Samples:
    """Up to `SCORED` of `samples`, drawn with a fixed seed, fewer where they are long."""
    order = np.random.default_rng(0).permutation(len(samples))[:SCORED]
    filled = np.cumsum([samples.tokens(int(index)) or EACH for index in order])
    count = max(LEAST, int((filled <= POSITIONS).sum()))
    return samples.select(sorted(order[:count].tolist()))
