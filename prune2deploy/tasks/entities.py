"""Entities in a sequence of labels such as B-PER, I-PER and O, and how many of them are found."""

from collections.abc import Sequence

import numpy as np

from prune2deploy.tasks.base import Arrays
from prune2deploy.tasks.metrics import Metric, f1
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.paired import WHOLE

Entity = tuple[str, int, int]  # its kind, its first place and its last
OUTSIDE = "O"


def entities_of(tags: Sequence[str]) -> set[Entity]:
    """The entities in `tags`, as CoNLL's script and seqeval count them, in any of the schemes IOB1, IOB2, IOE and IOBES.

    A label that goes on where nothing has begun begins an entity, as one of another kind does.
    """
    found: set[Entity] = set()
    kind, start = "", -1
    before = OUTSIDE
    for place, (mark, of) in enumerate([*map(_split, tags), (OUTSIDE, "")]):
        begins = mark != OUTSIDE and (mark in "BS" or before in ("E", "S", OUTSIDE) or of != kind)
        if start >= 0 and (begins or mark == OUTSIDE):
            found.add((kind, start, place - 1))
            start = -1
        if begins:
            kind, start = of, place
        before = mark
    return found


def _split(tag: str) -> tuple[str, str]:
    """The mark, B, I, E, S or O, and the kind of entity; of a label without a mark, it is its own kind."""
    mark, _, kind = tag.partition("-")
    if tag == OUTSIDE:
        return OUTSIDE, ""
    return (mark, kind) if mark in ("B", "I", "E", "S") and kind else ("I", tag)


class EntityF1(Metric):
    """F1 of the entities in `output`, [n, tokens, labels], times 100, over all samples at once; `names`: of the labels."""

    name = "entity F1"

    def __init__(self, output: str, names: Sequence[str]):
        super().__init__()
        self.output, self.names = output, names

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        return float(WHOLE * f1(*numbers.sum(0)))

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(hits, given, there) of each."""
        there = labels != IGNORED if counted is None else counted & (labels != IGNORED)
        found = []
        for said, right, places in zip(outputs[self.output].argmax(-1), labels, there, strict=True):
            given, wanted = (entities_of([self.names[each] for each in row[places]]) for row in (said, right))
            found.append((len(given & wanted), len(given), len(wanted)))
        return np.asarray(found, dtype=np.float64)
