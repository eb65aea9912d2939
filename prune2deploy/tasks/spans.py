"""Answers as stretches of a text: the best one over all windows of a context, and how right it is, as SQuAD has it."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prune2deploy.tasks.base import Arrays
from prune2deploy.tasks.metrics import Mean
from prune2deploy.tasks.objectives import NEVER

BEST = 20  # starts and ends that are tried with each other
LONGEST_ANSWER = 30  # tokens
Span = tuple[float, int, int]  # its score, and the characters of the context where it begins and ends


@dataclass(frozen=True)
class Window:
    """A part of the `context` of question number `row`. `spans`: the characters of every token; None: not of the context."""

    row: int
    context: str
    spans: list[tuple[int, int] | None]

    def tokens_of(self, answer: tuple[int, int] | None) -> tuple[int, int]:
        """The first and the last token of the characters `answer`; (0, 0), the first token, where it is not all here."""
        inside = [place for place, span in enumerate(self.spans) if span is not None]
        if answer is None or not inside:
            return 0, 0
        begins, ends = self.spans[inside[0]], self.spans[inside[-1]]
        assert begins is not None
        assert ends is not None
        if answer[0] < begins[0] or answer[1] > ends[1]:
            return 0, 0
        start = max(place for place in inside if self.spans[place][0] <= answer[0])  # type: ignore[index]
        end = min(place for place in inside if self.spans[place][1] >= answer[1])  # type: ignore[index]
        return start, end


def best_span(start: np.ndarray, end: np.ndarray, spans: Sequence[tuple[int, int] | None]) -> Span | None:
    """The stretch of at most `LONGEST_ANSWER` tokens whose ends have the highest logits together; None where there is none.

    `start`, `end`: logits [tokens or more], of which the `BEST` of the context are looked at.
    """
    inside = np.flatnonzero([span is not None for span in spans])
    starts, ends = (inside[np.argsort(-logits[inside], kind="stable")[:BEST]] for logits in (start, end))
    best: Span | None = None
    for first in starts.tolist():
        for last in ends.tolist():
            begins, stops, score = spans[first], spans[last], float(start[first] + end[last])
            if first <= last < first + LONGEST_ANSWER and (best is None or score > best[0]):
                assert begins is not None
                assert stops is not None
                best = (score, begins[0], stops[1])
    return best


class SquadMetric(Mean):
    """Exact match or F1 of words, times 100, the mean over questions, each against the answer that it fits best.

    Logits are in two outputs, those of the start and those of the end. Where some questions have no answer, none is given
    where the first token has higher logits than the best stretch in every window (SQuAD 2.0).
    """

    def __init__(self, outputs: tuple[str, str], windows: list[Window], answers: list[list[str]], exact: bool):
        super().__init__()
        self.outputs, self.windows, self.answers, self.exact = outputs, windows, answers, exact
        self.name = "exact match" if exact else "F1"
        self.may_have_none = not all(answers)

    def _judged(self, kept: np.ndarray) -> np.ndarray:
        """See Metric: a row a question."""
        context = {window.row: window.context for window in self.windows}
        found = []
        for row in dict.fromkeys(kept[:, 4].astype(int).tolist()):
            windows = kept[kept[:, 4] == row]
            score, first, last = windows[windows[:, 0].argmax(), :3]
            given = context[row][int(first) : int(last)] if np.isfinite(score) else ""
            if self.may_have_none and windows[:, 3].min() > score:
                given = ""
            quality = exact_match if self.exact else word_f1
            found.append(max(quality(given, right) for right in self.answers[row] or [""]))
        return np.asarray(found).reshape(-1, 1)

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """Of each, whose window's number is the last of its labels: (score, first character, last, score of none, row)."""
        found = []
        for start, end, number in zip(*(outputs[name] for name in self.outputs), labels[:, -1], strict=True):
            window = self.windows[number]
            score, first, last = best_span(start, end, window.spans) or (-np.inf, 0, 0)
            found.append((score, first, last, start[0] + end[0], window.row))
        return np.asarray(found)


class Agreement(Mean):
    """The share of samples in which the highest logit of every one of `outputs`, [n, tokens], is where the labels say."""

    name = "exact match of windows"

    def __init__(self, outputs: Sequence[str]):
        super().__init__()
        self.outputs = outputs

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """1 where all are right, of each."""
        rows = [outputs[name] if counted is None else np.where(counted, outputs[name], NEVER) for name in self.outputs]
        said = np.stack([row.argmax(-1) for row in rows], axis=1)
        return (said == labels).all(1, keepdims=True).astype(np.float64)


def normalised(text: str) -> str:
    """`text` as SQuAD's script compares it (Rajpurkar et al. 2016): lower case, no punctuation, no articles."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(given: str, right: str) -> float:
    """1 where both are the same, normalised."""
    return float(normalised(given) == normalised(right))


def word_f1(given: str, right: str) -> float:
    """F1 of the words that both have; of an empty answer, whether the other one is empty, too."""
    said, wanted = normalised(given).split(), normalised(right).split()
    if not said or not wanted:
        return float(said == wanted)
    same = sum((Counter(said) & Counter(wanted)).values())
    return 2 * same / (len(said) + len(wanted))
