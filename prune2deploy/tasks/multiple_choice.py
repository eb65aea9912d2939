"""Multiple choice: which of a few endings, answers or causes goes with a text."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.config import DataSettings, ScoringSettings, WorkloadPoint
from prune2deploy.data.splits import column, columns_of, read_split
from prune2deploy.errors import InputError
from prune2deploy.tasks.base import LOGITS, Arrays, Batch, Metrics, RawSample, Run, Samples, Serving
from prune2deploy.tasks.choices import (
    choice_columns,
    is_missing,
    keys_of,
    number_of,
    place_of,
    texts_of,
    wrong_names,
    wrong_with,
)
from prune2deploy.tasks.classification import guess_label
from prune2deploy.tasks.metrics import Accuracy
from prune2deploy.tasks.objectives import Categorical, Joint, Outputs
from prune2deploy.tasks.rows import called, first_called
from prune2deploy.tasks.texts import FromTexts, TextSamples, counted_in

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

# the text, and what of a choice comes before it, as known data sets call them
FIRSTS = (("sent1", "sent2"), ("ctx_a", "ctx_b"), ("article", "question"), ("passage", "question"), ("context", "question"))
TEXTS = ("ctx", "context", "premise", "question", "goal", "sentence", "text")
LISTS = ("choices", "endings", "options")
NUMBERED = ("ending", "choice", "option", "answer", "sol")  # columns that are called so, and have a number behind
ANSWERS = ("label", "labels", "answer", "answerkey", "answer_key")
TEXT, CHOICES = "TEXT", "CHOICES"


class ChoiceSamples(Samples):
    """Texts, each with `choices` to choose from; labels [n]: which is right. `pairs`: of all samples, one by one."""

    labels: np.ndarray | None

    def __init__(self, pairs: TextSamples, labels: np.ndarray | None, choices: int):
        self.pairs, self.labels, self.choices = pairs, labels, choices
        self.longest = np.asarray(pairs.lengths).reshape(-1, choices).max(1)

    def __len__(self) -> int:
        return len(self.longest)

    def select(self, indices: list[int]) -> "ChoiceSamples":
        """See Samples."""
        labels = None if self.labels is None else self.labels[indices]
        return ChoiceSamples(self.pairs.select(self._of(indices)), labels, self.choices)

    def digest(self) -> str:
        """See Samples."""
        labels = None if self.labels is None else self.labels.tolist()
        return hashlib.sha256(json.dumps([self.pairs.digest(), labels, self.choices]).encode()).hexdigest()

    def tokens(self, index: int) -> int:
        """See Samples."""
        return self.choices * int(self.longest[index])

    def order(self) -> list[int]:
        """Short ones first, so that a batch pads little."""
        return np.argsort(self.longest, kind="stable").tolist()

    def batch(self, indices: list[int]) -> Batch:
        """Every choice padded to the longest of the batch; inputs [batch, choices, tokens]."""
        pairs = self.pairs.batch(self._of(indices))
        assert pairs.valid is not None
        inputs = {name: array.reshape(len(indices), self.choices, -1) for name, array in pairs.inputs.items()}
        labels = None if self.labels is None else self.labels[indices]
        return Batch(inputs, labels, pairs.valid.reshape(len(indices), -1))

    def _of(self, indices: list[int]) -> list[int]:
        """The pairs of these samples."""
        return [index * self.choices + each for index in indices for each in range(self.choices)]


class MultipleChoice(FromTexts):
    """A text and choices to one of them; logits [n, choices]. All samples have as many choices."""

    name = "multiple-choice"
    architecture_suffix = "ForMultipleChoice"
    reads_first_token = False  # but the first of each choice
    columns = ("text", "text_pair", "choices", "label")
    outputs = (LOGITS,)
    objective = Joint({LOGITS: Categorical()})
    metrics: ClassVar[Metrics] = {"accuracy": lambda task, samples: Accuracy(LOGITS)}
    raw_names = (TEXT, CHOICES)
    serving = Serving(
        chain="choices_model", takes={TEXT: ("string", (1,)), CHOICES: ("string", (-1,))},
        gives={"CHOICE": ("int64", (1,)), "SCORES": ("float32", (-1,))},
    )  # fmt: skip

    def __init__(
        self, model_dir: Path, config: "PretrainedConfig", data: DataSettings, root: Path,
        scoring: ScoringSettings | None = None,
    ):
        super().__init__(model_dir, config, data, root, scoring)
        self.pairs = True

    @classmethod
    def is_column(cls, name: str, features: dict[str, object]) -> bool:
        """See Task: of the choices, a list, or several columns."""
        return name in features or len(choice_columns(name, features)) > 1

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        found: dict[str, str] = {role: given[role] for role in ("text", "text_pair", "choices") if role in given}
        if wrong := wrong_names(found.get("choices", ""), features):
            raise InputError(f"data {where!r}: {wrong} (--choices); it has: {', '.join(features)}")
        if "text" not in found:
            pairs = ((called(first, features), called(second, features)) for first, second in FIRSTS)
            first, second = next(((first, second) for first, second in pairs if first and second), (None, None))
            text = first or first_called(TEXTS, features)
            if text is None:
                has = ", ".join(features)
                raise InputError(f"data {where!r}: which column is the text? Name it with --text; it has: {has}")
            found = {"text": text, **({"text_pair": second} if first and second else {}), **found}
        if "choices" not in found:
            listed = first_called(LISTS, features)
            several = next((f"{name}*" for name in NUMBERED if len(choice_columns(f"{name}*", features)) > 1), None)
            if not (listed or several):
                raise InputError(
                    f"data {where!r}: which column lists the choices, or which ones are they? Name them with --choices "
                    f"('endings', 'ending*', 'A,B,C,D'); it has: {', '.join(features)}"
                )
            found["choices"] = listed or several or ""
        answer = first_called(ANSWERS, features)
        named = {"label": answer, **given} if answer else given
        return {**found, "label": guess_label(features, named, where)}

    @functools.cached_property
    def choices(self) -> int:
        """How many choices each sample has: as many as most of the evaluation split."""
        counts = Counter(map(len, self._listed(self.rows(self.data.evaluation), self.data.evaluation)))
        return counts.most_common(1)[0][0]

    def _listed(self, rows: "Dataset", split: str) -> list[list[str]]:
        """The choices of each of `rows`, of `split`; raises InputError, naming the row, where there are not two or more."""
        names = choice_columns(self.data.columns["choices"], columns_of(rows))
        if not names:
            names = [column(rows, "choices", self.data.columns, self.data.path, split)]
        cells = [rows[name][:] for name in names]
        values = cells[0] if len(cells) == 1 else [list(row) for row in zip(*cells, strict=True)]
        found = []
        for row, value in enumerate(values):
            if wrong := wrong_with(value):
                raise InputError(
                    f"data {self.data.path!r}, {self.placed(rows, row, split)}: {wrong}; give two texts or more, as a list "
                    "or in a column each (--choices)"
                )
            found.append(texts_of(value))
        return found

    def texts(self, rows: "Dataset", split: str) -> list[list[str]]:
        """See FromTexts: of every choice the text, and then that with what comes before it."""
        columns = super().texts(rows, split)
        firsts, before = columns[0], columns[1] if len(columns) > 1 else None
        listed = self._listed(rows, split)
        for row, choices in enumerate(listed):
            if len(choices) != self.choices:
                raise InputError(
                    f"data {self.data.path!r}, {self.placed(rows, row, split)}: {len(choices)} choices, where most have "
                    f"{self.choices}: leave out rows that have more or fewer"
                )
        if before is not None:
            listed = [[f"{text} {each}" for each in choices] for text, choices in zip(before, listed, strict=True)]
        return [[text for text in firsts for _ in range(self.choices)], [each for choices in listed for each in choices]]

    def sizes(self, rows: "Dataset", split: str) -> np.ndarray:
        """See FromTexts."""
        return super().sizes(rows, split).reshape(-1, self.choices).sum(1)

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows."""
        labels = self._labels(rows, split, required=judged)
        return ChoiceSamples(TextSamples(self.encoded(rows, split), None, self.padding), labels, self.choices)

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """Which choice is right, [n]; None where the project, or unless `required` the data, has no labels."""
        name = self.data.columns.get("label")
        if not name or (name not in columns_of(rows) and not required):
            return None
        name = column(rows, "label", self.data.columns, self.data.path, split)
        values, listed = rows[name][:], self._listed(rows, split)
        if not required and all(is_missing(value) for value in values):
            return None
        keys = self._keys(rows)
        by_text = all(isinstance(value, str) and value in choices for value, choices in zip(values, listed, strict=True))
        if by_text:  # also where choices are numbers
            return np.asarray([choices.index(value) for value, choices in zip(values, listed, strict=True)], dtype=np.int64)
        found = []
        for row, (value, choices) in enumerate(zip(values, listed, strict=True)):
            place = place_of(value, choices, keys[row] if keys else None, self._first_number)
            if place is None:
                wrong = (
                    f"no {name!r}: leave the row out, or do without labels (`init --unlabelled`)" if is_missing(value) else
                    f"{value!r:.60} is none of the {len(choices)} choices: give its number from 0 (or from 1), its letter, "
                    "or its text"
                )  # fmt: skip
                raise InputError(f"data {self.data.path!r}, {self.placed(rows, row, split)}: {wrong}")
            found.append(place)
        return np.asarray(found, dtype=np.int64)

    @functools.cached_property
    def _first_number(self) -> int:
        """What the first choice is called where labels are numbers: 1, where one is as high as that and none is 0."""
        numbers: set[int] = set()
        for split in (self.data.calibration, self.data.evaluation):
            rows, name = read_split(self.data, split, self.root), self.data.columns["label"]
            if name in columns_of(rows):
                numbers |= {number for value in rows[name][:] if (number := number_of(value)) is not None}
        return 1 if self.choices in numbers and 0 not in numbers else 0

    def _keys(self, rows: "Dataset") -> list[list[str]] | None:
        """What the data calls the choices of each row, as in `{"label": […], "text": […]}`; None where it does not."""
        name = self.data.columns["choices"]
        found = [keys_of(value) for value in rows[name][:]] if name in columns_of(rows) else [None]
        return [keys for keys in found if keys] if all(found) else None

    def synthetic_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """See FromTexts: of as many choices."""
        return self._by_choice(super().synthetic_inputs(batch * self.choices, seq_len))

    def workload_inputs(self, samples: Samples, point: WorkloadPoint) -> Arrays:
        """See FromTexts."""
        assert isinstance(samples, ChoiceSamples)
        wider = point.model_copy(update={"batch": point.batch * self.choices})
        return self._by_choice(super().workload_inputs(samples.pairs, wider))

    def _by_choice(self, inputs: Arrays) -> Arrays:
        return {name: array.reshape(-1, self.choices, array.shape[-1]) for name, array in inputs.items()}

    def counted(self, inputs: Arrays) -> np.ndarray:
        """See Task: [batch, choices · tokens]."""
        counted = counted_in(inputs)
        return counted.reshape(len(counted), -1)

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """See Task."""
        axes = {0: "batch", 2: "sequence"}
        return dict.fromkeys(self.input_names, axes)

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The likeliest choice of each sample."""
        return outputs[LOGITS].values.argmax(-1)

    def constant(self, labels: Any) -> Run:
        """See Task: the choice in the place that is right most often."""
        answer = np.bincount(labels, minlength=self.choices).astype(np.float32)[None]

        def run(inputs: Arrays) -> Arrays:
            return {LOGITS: np.repeat(answer, len(inputs["input_ids"]), axis=0)}

        return run

    def raw(self, count: int) -> dict[str, list[bytes]]:
        """See Task; the choices are a list in JSON, each with what comes before it."""
        rows = self.rows(self.data.evaluation)
        firsts, seconds = self.texts(rows.select(range(min(count, len(rows)))), self.data.evaluation)
        lists = [seconds[start : start + self.choices] for start in range(0, len(seconds), self.choices)]
        return {TEXT: list(map(str.encode, firsts[:: self.choices])), CHOICES: [as_json(texts) for texts in lists]}

    def odd(self) -> dict[str, RawSample]:
        """See Task: as the text, and as one of the choices."""
        _, *rest = json.loads(self.raw(1)[CHOICES][0])
        return {
            name: {TEXT: sample[TEXT], CHOICES: as_json([sample[CHOICES].decode(), *rest])}
            for name, sample in super().odd().items()
        }

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: of the model's own class and the tokenizer, choice by choice, as transformers 5 has no such pipeline."""
        import torch

        tokenizer, cut = self.cutting()
        choose = model or self.anew()

        def answer(sample: RawSample) -> np.ndarray:
            said = []
            for choice in json.loads(sample[CHOICES]):
                encoded = tokenizer(sample[TEXT].decode(), choice, return_tensors="pt", **cut)
                with torch.no_grad():
                    said.append(choose(**{name: tensor[:, None] for name, tensor in encoded.items()}).logits[0, 0].numpy())
            return np.stack(said)

        return answer

    def preprocessing_settings(self) -> dict[str, Any]:
        """See FromTexts."""
        return {"choices": self.choices}


def as_json(texts: list[str]) -> bytes:
    """A list of texts, as `CHOICES` of one raw sample."""
    return json.dumps(texts, ensure_ascii=False).encode()
