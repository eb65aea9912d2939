"""Task metrics as streams: outputs come batch by batch, and only a few numbers a sample are kept of them.

To add a metric, write a subclass of `Metric` that says which numbers, and what they come to.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from prune2deploy.tasks.base import Arrays, Score
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.paired import WHOLE, bootstrap_error, error_of_mean


class Metric(ABC):
    """What a model scores on the samples that `update` has seen. Outputs [n, positions, vocabulary] fit in no memory."""

    name: str
    lower_is_better: ClassVar[bool] = False  # such a metric is in a unit of its own, and not in points of 100

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._places: list[int] = []
        self._numbers: np.ndarray | None = None  # of all that is kept, once somebody has asked

    def update(
        self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None = None, places: Sequence[int] | None = None
    ) -> None:
        """Take in one batch.

        Args:
            outputs: by name.
            labels: what is right.
            counted: which positions count, [n, positions]; None: all.
            places: the numbers of the samples; None: they go on from those before.
        """
        kept, self._numbers = self._of_samples(outputs, labels, counted), None
        self._kept.append(kept)
        self._places += places if places is not None else range(len(self._places), len(self._places) + len(kept))

    @property
    def numbers(self) -> np.ndarray:
        """What is judged, [n, a few], a row a sample, or whatever `_judged` makes of samples, in their order."""
        if self._numbers is None:
            self._numbers = self._judged(np.concatenate(self._kept)[np.argsort(self._places)])
        return self._numbers

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
        """Of samples with these numbers, those seen or a resample of them: points, at most 100, unless lower is better."""

    def standard_error(self) -> float:
        """Of the score: that of the mean of `points`, or else a bootstrap over samples."""
        points, numbers = self.points, self.numbers
        if points is not None:
            return error_of_mean(points)
        return bootstrap_error(lambda drawn: self.value(numbers[drawn]), len(numbers), in_points=not self.lower_is_better)

    def worse(self, value: float, other: float) -> bool:
        """Whether a score of `value` is worse than one of `other`."""
        return value > other if self.lower_is_better else value < other

    @abstractmethod
    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """The numbers to keep of a batch, [n, a few]."""

    def _judged(self, kept: np.ndarray) -> np.ndarray:
        """`numbers` of what is kept of all samples, in their order: the same, where samples are judged one by one."""
        return kept


class OfOutput(Metric):
    """A metric of one `output`, by name."""

    def __init__(self, output: str):
        super().__init__()
        self.output = output


class Mean(Metric):
    """A metric that is the mean of its numbers, [n, 1], times 100."""

    @property
    def points(self) -> np.ndarray:
        """See Metric."""
        return WHOLE * self.numbers[:, 0]

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        return float(WHOLE * numbers.mean())


class OfNumbers(OfOutput):
    """A metric of regression: `output`, [n, 1], beside labels [n]."""

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(number, label) of each."""
        return np.stack([outputs[self.output][:, 0], labels], axis=1).astype(np.float64)


class RankCorrelation(OfNumbers):
    """Spearman's correlation, times 100; 0 where the one or the other are all alike."""

    name = "Spearman correlation"

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        from scipy.stats import rankdata

        return correlation(*(rankdata(column) for column in numbers.T))


class Correlation(OfNumbers):
    """Pearson's correlation, times 100; 0 where the one or the other are all alike."""

    name = "Pearson correlation"

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        return correlation(*numbers.T)


def correlation(said: np.ndarray, right: np.ndarray) -> float:
    """Of two columns [n], times 100; 0 where one is all alike."""
    if np.ptp(said) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(WHOLE * np.corrcoef(said, right)[0, 1])


class SquaredError(OfNumbers):
    """The mean squared error, in the labels' unit, squared."""

    name = "mean squared error"
    lower_is_better = True

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        return float(np.square(numbers[:, 0] - numbers[:, 1]).mean())


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


class OfClasses(OfOutput):
    """A metric of classification that is no mean over samples: the class of `output`, [n, classes], beside labels [n]."""

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(class, label) of each."""
        return np.stack([outputs[self.output].argmax(-1), labels], axis=1)


class MacroF1(OfClasses):
    """The mean over classes of F1, times 100, over the classes that there are, or that are answered."""

    name = "macro-F1"

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        from sklearn.metrics import f1_score

        said, right = numbers.T
        return float(WHOLE * f1_score(right, said, average="macro", zero_division=0.0))


class Matthews(OfClasses):
    """Matthews' correlation, times 100, as of CoLA; 0 where all labels or all answers are alike."""

    name = "Matthews correlation"

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        from sklearn.metrics import matthews_corrcoef

        said, right = numbers.T
        return float(WHOLE * matthews_corrcoef(right, said))


class MultiLabelF1(Metric):
    """F1 of yes or no to each of several labels, times 100: `micro` over all answers, or else the mean over labels.

    A label is given where its logit in `output`, [n, labels], is at least `threshold`, a probability; labels are 0 or 1,
    [n, labels].
    """

    def __init__(self, output: str, threshold: float, micro: bool):
        super().__init__()
        self.output, self.least, self.micro = output, logit(threshold), micro
        self.name = "micro-F1" if micro else "macro-F1"

    def value(self, numbers: np.ndarray) -> float:
        """See Metric; a label that is neither there nor given anywhere says nothing."""
        hits, given, there = numbers.reshape(len(numbers), 3, -1).sum(0)
        if self.micro:
            return float(WHOLE * f1(hits.sum(), given.sum(), there.sum()))
        known = given + there > 0
        return float(WHOLE * np.mean(f1(hits[known], given[known], there[known]))) if known.any() else 0.0

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(hits, given, there) of each label, one after the other."""
        said, right = outputs[self.output] >= self.least, labels > 0.5
        return np.concatenate([said & right, said, right], axis=1).astype(np.float64)


def f1(hits: "float | np.ndarray", given: "float | np.ndarray", there: "float | np.ndarray") -> "float | np.ndarray":
    """2 · hits / (given + there), 0 where there is nothing to be found and nothing given."""
    return 2 * hits / np.maximum(given + there, 1)


def logit(probability: float) -> float:
    """Where the sigmoid is `probability`."""
    return float(np.log(probability) - np.log1p(-probability))


class PseudoPerplexity(OfOutput):
    """exp of the mean negative log-likelihood of what was masked (Salazar et al. 2020), of all masked tokens at once.

    `output`: logits [n, positions, vocabulary]; labels are `IGNORED` where nothing was masked.
    """

    name = "pseudo-perplexity"
    lower_is_better = True

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        nats, answers = numbers.sum(0)
        return float(np.exp(nats / answers)) if answers else float("nan")

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(nats, answers) of each."""
        from scipy.special import log_softmax

        there = labels != IGNORED
        found = np.zeros((len(labels), 2))
        for row, places in enumerate(there):
            logs = log_softmax(outputs[self.output][row, places].astype(np.float64), axis=-1)
            found[row] = -logs[np.arange(len(logs)), labels[row, places]].sum(), len(logs)
        return found


class CosineToDense(Mean, OfOutput):
    """The mean cosine of `output`, [n, size], to the dense model's, times 100."""

    name = "cosine"

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """The cosine of each."""
        return (unit(outputs[self.output]) * unit(labels)).sum(-1, keepdims=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, in float64."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
