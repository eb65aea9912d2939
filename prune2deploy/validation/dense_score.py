"""Whether labels and model fit together at all: the dense model's score, on a share of the evaluation split."""

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import Run, Samples, Score, Task
from prune2deploy.tasks.predict import BATCH, metric_of, own_labels

SCORED = 256  # samples at most: the standard error of an accuracy is then 3 points or less
LEAST = 32
POSITIONS = 16_384  # all samples together, so that long texts and large models take seconds, too
EACH = 256  # positions of a sample whose number is not known


def dense_score(task: Task, run: Run, samples: Samples, force: bool) -> Score:
    """The task metric of the dense model `run` on `samples`, which have labels; see `drawn`.

    Raises InputError, unless `force`, where it is below what one answer to everything reaches, or below the share of what
    the model's own labels would give that the task asks for.
    """
    assert samples.labels is not None
    model, own, least = task.metric(samples), task.metric(samples), task.least(samples)
    for indices, batch in samples.batches(BATCH):
        assert batch.labels is not None
        said = run(batch.inputs)
        model.update(said, batch.labels, batch.valid, indices)
        if least:
            own.update(said, own_labels(task, said, batch.valid), batch.valid, indices)
    constant = metric_of(task.constant(samples.labels), task, samples, samples.labels).score()
    score, best = model.score(), own.score().value if least else 0.0
    if not force and (model.worse(score.value, constant.value) or score.value < least * best):
        of_own = f", the model's own labels {best:.2f}" if least else ""
        raise InputError(
            f"data and model do not fit together: the dense model reaches {score} on {task.data.path!r}, one answer to "
            f"everything {constant.value:.2f}{of_own}; {task.misfit} --force goes on"
        )
    return score


def drawn(samples: Samples) -> Samples:
    """Up to `SCORED` of `samples`, drawn with a fixed seed, fewer where they are long."""
    order = samples.drawn(seed=0)[: SCORED // samples.together * samples.together]
    filled = np.cumsum([samples.tokens(index) or EACH for index in order])
    count = max(LEAST, int((filled <= POSITIONS).sum())) // samples.together * samples.together
    return samples.select(sorted(order[:count]))
