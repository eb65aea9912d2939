"""What text and image classification share: labels, loss, metric."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.data.splits import column, columns_of, read_split
from prune2deploy.errors import InputError
from prune2deploy.files import write_text
from prune2deploy.tasks.base import LABELS_FILE, LOGITS, Arrays, Labels, Metrics, Run, Samples, Serving
from prune2deploy.tasks.by_class import counts_of
from prune2deploy.tasks.labels import LabelColumn, class_of_label, label_texts
from prune2deploy.tasks.metrics import Accuracy, MacroF1, Matthews
from prune2deploy.tasks.objectives import Categorical, Joint, Outputs
from prune2deploy.tasks.rows import FromRows, first_called

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

LABEL_NAMES = ("label", "labels")
NO_LABEL = ""  # in the project file: this data has no labels


class Classification(FromRows):
    """One label a sample; logits [n, classes]."""

    reads_first_token = True
    outputs = (LOGITS,)
    objective = Joint({LOGITS: Categorical()})
    metrics: ClassVar[Metrics] = {
        "accuracy": lambda task, samples: Accuracy(LOGITS),
        "macro-f1": lambda task, samples: MacroF1(LOGITS),
        "matthews": lambda task, samples: Matthews(LOGITS),
    }  # fmt: skip
    serving = Serving(outputs={LOGITS: "LOGITS"}, answer="labels_model", gives={"LABEL": ("string", (1,))})
    make_samples: "Callable[[Dataset, np.ndarray | None, str], Samples]"  # of rows, their labels, and the split they are of

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows."""
        return self.make_samples(rows, self._labels(rows, split, required=judged), split)

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """Class indices, [n]; None where the project says that there are none, and, unless `required`, where none are."""
        name = self._named_label(rows, split, required)
        if not name:
            return None
        whole = self._label_column(split)
        assert whole is not None
        found = label_texts(whole, class_names(self.config))
        missing = [row for row, text in enumerate(found) if text is None]
        if len(missing) == len(found) and not required:
            return None
        if missing:
            raise InputError(
                f"data {self.data.path!r}: {len(missing)} of {len(found)} samples have no {name!r}, the first is "
                f"{whole.place(missing[0])}: leave them out, or do without labels (`init --unlabelled`)"
            )
        taken = label_texts(replace(whole, values=rows[name][:]), class_names(self.config))
        return np.asarray([self._classes[text] for text in taken if text is not None], dtype=np.int64)

    def _named_label(self, rows: "Dataset", split: str, required: bool) -> str | None:
        """The label column; None where the project says that there is none, and, unless `required`, where none is there."""
        name = self.data.columns.get("label")
        if not name or (name not in columns_of(rows) and not required):
            return None
        return column(rows, "label", self.data.columns, self.data.path, split)

    @functools.cached_property
    def _classes(self) -> dict[str, int]:
        """The class of every label that either split holds, as text: one reading for both, whatever is drawn from them."""
        columns = [self._label_column(split) for split in (self.data.calibration, self.data.evaluation)]
        return class_of_label([found for found in columns if found], class_names(self.config), self.data.path)

    def _label_column(self, split: str) -> LabelColumn | None:
        """All labels of `split`; None where it has no such column."""
        rows, name = read_split(self.data, split, self.root), self.data.columns["label"]
        if name not in columns_of(rows):
            return None

        names = getattr(rows.features[name], "names", None)
        return LabelColumn(split, rows[name][:], names, lambda row: self.placed(rows, row, split))

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The likeliest class of each sample."""
        return outputs[LOGITS].values.argmax(-1)

    def constant(self, labels: Labels) -> Run:
        """See Task: all for the most frequent class."""
        answer = np.zeros(self.config.num_labels)
        answer[np.bincount(labels).argmax()] = 1

        def run(inputs: Arrays) -> Arrays:
            return {LOGITS: np.tile(answer, (len(next(iter(inputs.values()))), 1))}

        return run

    def classes(self) -> list[str]:
        """See Task."""
        return class_names(self.config)

    def answered(self, said: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """See Task."""
        return counts_of(said[LOGITS].argmax(-1), labels, self.config.num_labels)

    def in_order(self, answer: list[Any]) -> np.ndarray:
        """What a pipeline answers to one sample, a score for each label, as the logits [classes]."""
        rows = answer[0] if isinstance(answer[0], list) else answer
        scores = {row["label"]: row["score"] for row in rows}
        return np.asarray([scores[self.config.id2label[index]] for index in range(self.config.num_labels)])

    def label_names(self) -> list[str]:
        """See Task."""
        return label_lines(self.config, self.model_dir)

    def write_answering(self, directory: Path) -> None:
        """See Task: the names, one a line."""
        write_labels(directory, self.label_names())


def class_names(config: "PretrainedConfig") -> list[str]:
    """The names of the outputs, in their order."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def label_lines(config: "PretrainedConfig", model_dir: Path) -> list[str]:
    """The same for a file of lines, so that no name has a line feed inside; raises InputError where two names meet."""
    lines = [name.replace("\n", " ") for name in class_names(config)]
    if twice := next((line for line in lines if lines.count(line) > 1), None):
        raise InputError(f"{model_dir}: two labels are {twice!r} on one line; rename one in config.json (id2label)")
    return lines


def write_labels(directory: Path, names: list[str]) -> None:
    """Write `names`, one a line."""
    write_text(directory / LABELS_FILE, "".join(f"{name}\n" for name in names))


def guess_label(features: dict[str, object], given: dict[str, str], where: str) -> str:
    """The label column; `NO_LABEL` only where the user said so."""
    if "label" in given:
        return given["label"]
    if found := first_called(LABEL_NAMES, features):
        return found
    raise InputError(
        f"data {where!r} has no label column among: {', '.join(features)}; name it with --label, or say --unlabelled "
        "to calibrate on the model's own soft labels"
    )
