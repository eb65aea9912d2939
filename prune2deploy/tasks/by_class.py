"""How well each class is answered: what an average over all of them hides."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.tasks.paired import WHOLE

if TYPE_CHECKING:
    from prune2deploy.tasks.base import Arrays, Task

SEEN = 5  # samples of a class, from which on something is said of it
KNOWN = 20.0  # F1 that the dense model must have there
COLLAPSED = 0.5  # of the dense model's F1


@dataclass(frozen=True)
class ClassChange:
    """F1 of one class, in points, before and after; `n`: how often it is right."""

    name: str
    n: int
    before: float
    after: float

    @property
    def collapsed(self) -> bool:
        """Whether the class is as good as lost."""
        return self.n >= SEEN and self.before >= KNOWN and self.after < COLLAPSED * self.before

    def __str__(self) -> str:
        return f"label {self.name!r} collapsed: F1 {self.before:.1f} → {self.after:.1f} (n = {self.n})"


class ByClass:
    """Counts of each class of a task that has classes, batch by batch."""

    def __init__(self, task: "Task"):
        self.task, self.names = task, task.classes()
        self.counts = np.zeros((3, len(self.names)))  # right answers, answers, and how often each is right

    def update(self, said: "Arrays", labels: np.ndarray, counted: np.ndarray | None) -> None:
        """Take in one batch, as a metric does."""
        if self.names:
            self.counts += self.task.answered(said, labels, counted)

    def against(self, dense: "ByClass") -> list[ClassChange]:
        """What became of each class, where `dense` is of the same samples before."""
        there = self.counts[2].astype(int)
        pairs = zip(self.names, there, dense.scores(), self.scores(), strict=True)
        return [ClassChange(name, int(n), float(before), float(after)) for name, n, before, after in pairs]

    def scores(self) -> np.ndarray:
        """F1 of each class, [classes], in points; 0 where there is nothing to be found."""
        right, given, there = self.counts
        return WHOLE * 2 * right / np.maximum(given + there, 1)


def counts_of(said: np.ndarray, right: np.ndarray, classes: int) -> np.ndarray:
    """[3, classes]: right answers, answers, and how often each class is right. `said`, `right`: classes, [n]."""
    found = (said[said == right], said, right)
    return np.stack([np.bincount(each.astype(int), minlength=classes) for each in found]).astype(float)
