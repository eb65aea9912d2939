"""How far a score is known: its standard error, and that of what a model loses against another on the same samples.

Both models err on much the same samples, so the difference is known better than either score. No error is ever 0: where
all samples are right, the next one may still be wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from prune2deploy.tasks.metrics import Metric

WHOLE = 100.0  # points of a sample that is wholly right
RESAMPLES = 1000


@dataclass(frozen=True)
class Loss:
    """Points of the task metric that a model lost against another, over the same `n` samples; below 0 where it gained.

    Of a metric that is the better the lower it is, points are its own unit.
    """

    points: float
    standard_error: float
    n: int

    def __str__(self) -> str:
        return f"{'gained' if self.points < 0 else 'lost'} {abs(self.points):.2f} ± {self.standard_error:.2f} points"

    def doubt(self, limit: float) -> str | None:
        """What to warn of where this is nearer to `limit` than it is known; None where it is not."""
        if self.standard_error <= abs(limit - self.points):
            return None
        other = "more" if self.points <= limit else "less"
        return f"{self} (n = {self.n}): on other samples it may well be {other} than {limit:g}; more samples would tell"


def loss_between(dense: "Metric", pruned: "Metric") -> Loss:
    """What `pruned` lost of the task metric against `dense`, both of the same samples in the same order.

    The standard error is that of the mean of the samples' differences, and for a metric that is no mean a bootstrap over
    samples.
    """
    before, after, sign = dense.points, pruned.points, -1 if dense.lower_is_better else 1
    if before is not None and after is not None:
        lost = before - after
        return Loss(float(lost.mean()), error_of_difference(lost), len(lost))
    of_dense, of_pruned = dense.numbers, pruned.numbers

    def of(drawn: np.ndarray) -> float:
        return sign * (dense.value(of_dense[drawn]) - pruned.value(of_pruned[drawn]))

    error = bootstrap_error(of, len(of_dense), in_points=not dense.lower_is_better)
    return Loss(of(np.arange(len(of_dense))), error, len(of_dense))


def weight_of_one(n: int) -> float:
    """Points that one of `n` samples is worth."""
    return WHOLE / n


def error_of_mean(points: np.ndarray) -> float:
    """Standard error of the mean of `points` [n], 0 to 100 each.

    It is taken with two samples more, one wholly right and one wholly wrong (Agresti and Caffo 2000).
    """
    return float(np.append(points, [0.0, WHOLE]).std() / np.sqrt(len(points) + 2))


def error_of_difference(differences: np.ndarray) -> float:
    """Standard error of the mean of `differences` [n] between two models' points of the same samples, -100 to 100 each.

    It is taken with two samples more, spread evenly over what can happen: both models right, one, the other, neither
    (Agresti and Min 2005).
    """
    n = len(differences) + 2
    mean = differences.sum() / n
    return float(np.sqrt(((differences**2).sum() + WHOLE**2) / n - mean**2) / np.sqrt(n))


def bootstrap_error(value: Callable[[np.ndarray], float], n: int, in_points: bool = True) -> float:
    """Standard error of `value`, a function of the indices of `n` samples, over resamples of them with a fixed seed.

    `in_points`, it is never less than the weight of one sample; resamples that `value` knows no number for do not count.
    """
    rng = np.random.default_rng(0)
    found = np.array([value(rng.integers(n, size=n)) for _ in range(RESAMPLES)])
    found = found[np.isfinite(found)]
    return max(float(found.std(ddof=1)) if len(found) > 1 else 0.0, weight_of_one(n) if in_points else 0.0)
