"""The outside witness: what transformers' own pipeline makes of raw samples, beside what we and our servers make of them.

All other checks compare this product with itself.
"""

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import reason_of
from prune2deploy.tasks.base import Arrays, RawSample, Run, Samples, Task
from prune2deploy.tasks.predict import rows_of
from prune2deploy.validation.record import Check

USUAL = 8  # samples of the user's data that the witness sees
TOLERANCE = 1e-3  # of the largest logit, where both sides compute in float32: they round differently at every step
ROUNDING = 1e-5  # of the largest logit: less than that apart, answers are the same
Answer = Callable[[RawSample], np.ndarray]
Preprocessor = Callable[[dict[str, list[bytes]]], Arrays]
# by the name of the sample: its logits, or why there are none; [classes], or of every position, [positions, classes]
Answers = dict[str, np.ndarray | str]


@dataclass(frozen=True)
class Testimony:
    """How far apart the logits of `samples` are; `objection`: the first that is too far off, told for both sides."""

    samples: int
    refused: int
    difference: float
    objection: str | None

    def __str__(self) -> str:
        if self.objection:
            return self.objection
        refused = f", {self.refused} odd ones that the pipeline refuses" if self.refused else ""
        return f"logits differ by at most {self.difference:.2g} over {self.samples} raw samples{refused}"

    def as_check(self, name: str) -> Check:
        """The testimony in a report."""
        return Check(name=name, passed=self.objection is None, detail=str(self))


def reading(task: Task, run: Run, samples: Samples, outside: Answer, tolerance: float = TOLERANCE) -> Testimony:
    """Whether the first of `samples`, the evaluation split as we read it, give `run` what their raw form gives `outside`.

    `tolerance`: see `serving`.
    """
    usual = usual_samples(task)
    taken = task.samples_of_raw(samples, len(usual))
    some = samples.select([index for indices in taken for index in indices])
    rows = rows_of(run, task, some)
    outputs = task.objective.parts[task.outputs[0]].gathered(rows[task.outputs[0]]).values
    apart = float(np.ptp(outputs, axis=0).max())
    if len({tuple(sample.values()) for sample in usual.values()}) > 1 and apart <= ROUNDING * float(np.abs(outputs).max()):
        alike = "the model answers all samples alike: are these its weights, and is this its kind of data?"
        return Testimony(len(usual), 0, 0.0, alike)
    each = iter(zip(*rows.values(), strict=True))
    ours: Answers = {
        name: joined([next(each) for _ in indices]) for name, indices in zip(usual, taken, strict=True)
    }
    return _compared(task, ours, _answers(outside, usual), "our reading of model and data", tolerance)


def serving(task: Task, chain: Answer, outside: Answer, tolerance: float = TOLERANCE) -> Testimony:
    """Whether raw samples of the evaluation split, and odd ones, give in the served `chain` what they give `outside`.

    `tolerance`: of the largest logit; wider where the chain computes in half precision.
    """
    odd = task.odd()
    samples = usual_samples(task) | odd
    return _compared(task, _answers(chain, samples), _answers(outside, samples), "what a server runs", tolerance, odd)


def usual_samples(task: Task) -> dict[str, RawSample]:
    """The first samples of the evaluation split, as a client sends them, by where they come from."""
    columns = task.raw(USUAL)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {task.place(index): row for index, row in enumerate(rows)}


def preprocessor_of(task: Task, workload: Sequence[WorkloadPoint], directory: Path) -> Preprocessor:
    """What a server would do to raw samples, as the files that are written to `directory` say; raises NotServableError."""
    task.write_preprocessing(directory, workload)
    return importlib.import_module(f"prune2deploy.serving.served.{task.served}").Preprocessor(directory)


def chain_of(task: Task, preprocessor: Preprocessor, run: Run) -> Answer:
    """Raw samples through the served preprocessing, and then through `run`: all outputs, one after the other."""

    def answer(sample: RawSample) -> np.ndarray:
        inputs = task.model_inputs(preprocessor({name: [data] for name, data in sample.items()}))
        said, counted = run(inputs), task.counted(inputs)
        rows = [part.by_sample(said[name], counted) for name, part in task.objective.parts.items()]
        return joined(list(zip(*rows, strict=True)))

    return answer


def joined(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """What a raw sample is answered: of each sample that it becomes, all outputs, one after the other."""
    return np.concatenate([output for outputs in rows for output in outputs])


def _answers(answer: Answer, samples: dict[str, RawSample]) -> Answers:
    found: Answers = {}
    for name, sample in samples.items():
        try:
            found[name] = answer(sample)
        except Exception as error:  # a library's own, of any kind: what counts is whether the other side answers
            found[name] = reason_of(error, 160)
    return found


def _compared(
    task: Task, ours: Answers, theirs: Answers, what: str, tolerance: float, odd: Collection[str] = ()
) -> Testimony:
    """What the answers say of each other; where the pipeline does not take an `odd` sample, nothing is to be compared."""
    largest, refused, their = 0.0, 0, None
    for name, mine in ours.items():
        their = theirs[name]
        if isinstance(their, str) and (name in odd or isinstance(mine, str)):
            refused += 1
            continue
        if isinstance(mine, str) or isinstance(their, str) or mine.shape != their.shape:
            return Testimony(len(ours), refused, float("inf"), _objection(task, name, their, mine, what))
        if not np.isfinite(their).all():
            nothing = f"{name}: the model itself gives no numbers, but {their.ravel().tolist()[:3]}"
            return Testimony(len(ours), refused, float("nan"), nothing)
        difference = float(np.abs(mine - their).max(initial=0.0))
        if not difference <= tolerance * max(1.0, float(np.abs(their).max(initial=0.0))):  # NaN is too far, too
            objection = f"{_objection(task, name, their, mine, what)} (logits differ by {difference:.2g})"
            return Testimony(len(ours), refused, difference, objection)
        largest = max(largest, difference)
    if refused == len(ours):
        return Testimony(len(ours), refused, float("inf"), f"transformers' own pipeline takes none of the samples: {their}")
    return Testimony(len(ours), refused, largest, None)


def _objection(task: Task, name: str, their: np.ndarray | str, mine: np.ndarray | str, what: str) -> str:
    """Both answers to the sample `name`, for people; of answers at many positions, those that differ most."""
    where = ""
    if isinstance(mine, np.ndarray) and isinstance(their, np.ndarray) and their.ndim > 1:
        if len(mine) != len(their):
            return f"{name}: transformers' pipeline has {len(their)} tokens, and {what} has {len(mine)}"
        place = int(np.nan_to_num(np.abs(mine - their), nan=np.inf).max(-1).argmax())
        mine, their, where = mine[place], their[place], f" at token {place + 1} of {len(their)}"
    return f"{name}: transformers' pipeline gives {_told(task, their)}{where}, and {what} gives {_told(task, mine)}"


def _told(task: Task, answer: np.ndarray | str) -> str:
    """An answer for people: its label and probability, or why there is none."""
    if isinstance(answer, str):
        return f"no answer ({answer})"
    if answer.size == 1:
        return f"{float(answer.reshape(-1)[0]):.4g}"
    if answer.ndim > 1:
        return f"answers to {len(answer)} tokens"
    if len(task.outputs) > 1 or not task.objective.scalable:
        return f"{answer.size} numbers ({', '.join(f'{number:.3g}' for number in answer[:3])}, …)"
    odds, best, names = np.exp(answer - answer.max()), int(answer.argmax()), task.label_names()
    return f"{repr(names[best]) if names else f'class {best}'} ({odds[best] / odds.sum():.3f})"
