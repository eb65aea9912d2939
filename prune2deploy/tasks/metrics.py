"""Task metrics as streams: outputs come batch by batch, and only a few numbers a sample are kept of them.

To add a metric, write a subclass of `Metric` that says which numbers, and what they come to.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from prune2deploy.tasks.base import Arrays, Score
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.paired import WHOLE, bootstrap_error, error_of_mean


class Metric(ABC):
    """What a model scores on the samples that `update` has seen. Outputs [n, positions, vocabulary] fit in no memory."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    def update(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None = None) -> None:
        """Take in one batch: outputs by name, and which positions count, [n, positions], None: all."""
        self._kept.append(self._of_samples(outputs, labels, counted))

    @property
    def numbers(self) -> np.ndarray:
        """What is kept, [n, a few], a row a sample, in the order in which they came."""
        return np.concatenate(self._kept)

    @property
    def points(self) -> np.ndarray | None:
        """Points [n] of the samples, whose mean is the score; None where the metric is no mean over samples.

        Two models' points of the same samples differ, sample by sample, by what their scores differ.
        """
        return None

    def score(self) -> Score:
        """Over all samples so far; at least one."""
        numbers = self.numbers
        return Score(self.name, self.value(numbers), self.standard_error(), len(numbers))

    @abstractmethod
    def value(self, numbers: np.ndarray) -> float:
        """Points, at most 100, of samples with these numbers: those seen, or a resample of them."""

    def standard_error(self) -> float:
        """Of the score, in points: that of the mean of `points`, or else a bootstrap over samples."""
        points, numbers = self.points, self.numbers
        if points is not None:
            return error_of_mean(points)
        return bootstrap_error(lambda drawn: self.value(numbers[drawn]), len(numbers))

    @abstractmethod
    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """The numbers to keep of a batch, [n, a few]."""


class RankCorrelation(Metric):
    """Spearman's correlation of `output`, [n, 1], with labels [n], times 100; 0 where the one or the other are all alike."""

    name = "Spearman correlation"

    def __init__(self, output: str):
        super().__init__()
        self.output = output

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        from scipy.stats import rankdata

        said, right = (rankdata(column) for column in numbers.T)
        if np.ptp(said) == 0 or np.ptp(right) == 0:
            return 0.0
        return float(WHOLE * np.corrcoef(said, right)[0, 1])

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(number, label) of each."""
        return np.stack([outputs[self.output][:, 0], labels], axis=1).astype(np.float64)


class Accuracy(Metric):
    """The share of right answers. The classes of `output` are on its last axis; labels are [n] or [n, positions].

    `per_position`: each position that counts, and whose label is not `IGNORED`, is an answer. Points are then those
    of a ratio of two sums over samples (Cochran 1977, section 2.11), since the positions of one sample err together.
    """

    name = "accuracy"

    def __init__(self, output: str, per_position: bool = False):
        super().__init__()
        self.output, self.per_position = output, per_position

    @property
    def points(self) -> np.ndarray:
        """See Metric: right ones per mean number of answers, less what a sample with more answers than that was to have."""
        right, answers = self.numbers.T / self.numbers[:, 1].mean()
        return WHOLE * (right - right.mean() * (answers - 1))

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        right, answers = numbers.sum(0)
        return float(WHOLE * (right / answers))

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(right answers, answers) of each."""
        right = outputs[self.output].argmax(-1) == labels
        if not self.per_position:
            return np.stack([right, np.ones(len(right))], axis=1)
        answers = labels != IGNORED if counted is None else counted & (labels != IGNORED)
        return np.stack([(right & answers).sum(1), answers.sum(1)], axis=1).astype(np.float64)
