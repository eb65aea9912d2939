"""Any number of labels for a text or a pair of texts: each a yes or no of its own."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.data.splits import columns_of, read_split
from prune2deploy.errors import InputError
from prune2deploy.files import pretty_json, write_text
from prune2deploy.tasks.base import ANSWERING_FILE, LOGITS, Arrays, Labels, Metrics, Run, Serving
from prune2deploy.tasks.classification import class_names
from prune2deploy.tasks.labels import LabelColumn, class_of_label, label_texts
from prune2deploy.tasks.metrics import MultiLabelF1, logit
from prune2deploy.tasks.objectives import Bernoulli, Joint, Outputs
from prune2deploy.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

THRESHOLD = 0.5
EACH = "*"  # in the project file: each label has a column of its own, called as the model calls it


class MultiLabel(TextClassification):
    """Text, or a pair of texts, to any number of labels; logits [n, labels]."""

    name = "multi-label"
    has_threshold = True
    objective = Joint({LOGITS: Bernoulli()})
    metrics: ClassVar[Metrics] = {
        "micro-f1": lambda task, samples: MultiLabelF1(LOGITS, task.threshold, micro=True),
        "macro-f1": lambda task, samples: MultiLabelF1(LOGITS, task.threshold, micro=False),
    }  # fmt: skip
    serving = Serving(
        outputs={LOGITS: "LOGITS"}, answer="multi_labels_model",
        gives={"LABELS": ("string", (1,)), "SCORES": ("float32", (-1,))},
    )  # fmt: skip
    least_of_own = 0.25  # which a model that is right about the common labels reaches

    @property
    def threshold(self) -> float:
        """The probability from which a label is given."""
        return self.scoring.threshold or THRESHOLD

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """See Task: of a model that does not say, too, where the user does."""
        return super(TextClassification, cls).is_for(config) and config.num_labels > 1

    @classmethod
    def is_column(cls, name: str, features: dict[str, object]) -> bool:
        """See Task."""
        return name == EACH or super().is_column(name, features)

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """0 or 1 of each label, [n, labels]; None where the project says so, and, unless `required`, where none are."""
        if self.data.columns.get("label") == EACH:
            return self._of_columns(rows, split)
        name = self._named_label(rows, split, required)
        if not name:
            return None
        lists = self._lists(rows, name, split)
        labels = np.zeros((len(lists), self.config.num_labels), dtype=np.float32)
        if self._are_marks:
            return labels + np.asarray(lists, dtype=np.float32)
        for row, texts in enumerate(self._texts(lists, name, split, rows)):
            labels[row, [self._classes[text] for text in texts]] = 1
        return labels

    @functools.cached_property
    def _are_marks(self) -> bool:
        """Whether every list of labels, in both splits, has a 0 or a 1 for each label of the model.

        Raises InputError, naming the row, where they are such marks, and some are missing.
        """
        lists = {split: self._lists_of(split) for split in self._splits}
        every = [each for found in lists.values() for each in found]
        if not all(set(each) <= {0, 1} for each in every):
            return False
        count = self.config.num_labels
        if all(len(each) == count for each in every):
            return True
        if all(len(set(each)) == len(each) for each in every):
            return False  # numbers of labels, none of them twice
        split, row = next((split, row) for split in lists for row, each in enumerate(lists[split]) if len(each) != count)
        rows = read_split(self.data, split, self.root)
        raise InputError(
            f"data {self.data.path!r}, {self.placed(rows, row, split)}: {len(lists[split][row])} marks (0 or 1), and the "
            f"model has {count} labels: give one for each"
        )

    @functools.cached_property
    def _classes(self) -> dict[str, int]:
        """See Classification: of the labels in all lists."""
        columns = []
        for split in self._splits:
            rows, name = read_split(self.data, split, self.root), self.data.columns["label"]
            columns.append(self._column(self._lists(rows, name, split), name, split, rows))
        return class_of_label(columns, class_names(self.config), self.data.path)

    @property
    def _splits(self) -> list[str]:
        """The splits that have labels."""
        name = self.data.columns["label"]
        both = dict.fromkeys((self.data.calibration, self.data.evaluation))
        return [split for split in both if name in columns_of(read_split(self.data, split, self.root))]

    def _lists_of(self, split: str) -> list[list[Any]]:
        return self._lists(read_split(self.data, split, self.root), self.data.columns["label"], split)

    def _lists(self, rows: "Dataset", name: str, split: str) -> list[list[Any]]:
        """The labels of each row; a single one is a list of one, and nothing is none."""
        found = []
        for row, value in enumerate(rows[name][:]):
            if isinstance(value, dict | bytes):
                kind = "an object" if isinstance(value, dict) else "bytes, or lists among other values"
                raise InputError(
                    f"data {self.data.path!r}, {self.placed(rows, row, split)}: the label is {kind}; give a list of labels, "
                    f"a list of a 0 or 1 for each, or a column for each (--label '{EACH}')"
                )
            found.append(value if isinstance(value, list) else [] if value in (None, "") else [value])
        return found

    def _column(self, lists: list[list[Any]], name: str, split: str, rows: "Dataset") -> LabelColumn:
        """All labels in `lists`, one after the other."""
        places = [row for row, labels in enumerate(lists) for _ in labels]
        feature = rows.features[name]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        values = [label for labels in lists for label in labels]
        return LabelColumn(split, values, names, lambda place: self.placed(rows, places[place], split))

    def _texts(self, lists: list[list[Any]], name: str, split: str, rows: "Dataset") -> list[list[str]]:
        """The labels of each row as text, without those that are none."""
        texts = iter(label_texts(self._column(lists, name, split, rows), class_names(self.config)))
        return [[text for text in (next(texts) for _ in labels) if text is not None] for labels in lists]

    def _of_columns(self, rows: "Dataset", split: str) -> np.ndarray:
        """0 or 1 of each label, from the column that is called so."""
        names = class_names(self.config)
        if missing := next((name for name in names if name not in columns_of(rows)), None):
            raise InputError(
                f"data {self.data.path!r}, split {split!r}: no column {missing!r}, which is a label of the model (--label "
                f"'{EACH}' says that each has one); it has: {', '.join(columns_of(rows))}"
            )
        labels = np.zeros((len(rows), len(names)), dtype=np.float32)
        for place, name in enumerate(names):
            for row, value in enumerate(rows[name][:]):
                if value not in MARKS:
                    raise InputError(
                        f"data {self.data.path!r}, {self.placed(rows, row, split)}: {name!r} is {value!r}, and no 0 or 1"
                    )
                labels[row, place] = MARKS[value]
        return labels

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """0 or 1 of each label, by the threshold."""
        return (outputs[LOGITS].values >= logit(self.threshold)).astype(np.float32)

    def constant(self, labels: Labels) -> Run:
        """See Task: the labels that more samples have than not, or else the most frequent one."""
        share = np.asarray(labels).mean(0)
        answer = np.where((share > 0.5) | (share == share.max()), 1.0, -1.0) * 100.0

        def run(inputs: Arrays) -> Arrays:
            return {LOGITS: np.tile(answer, (len(inputs["input_ids"]), 1))}

        return run

    def answered(self, said: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """See Task."""
        given, right = said[LOGITS] >= logit(self.threshold), labels > 0.5
        return np.stack([(given & right).sum(0), given.sum(0), right.sum(0)]).astype(float)

    def write_answering(self, directory: Path) -> None:
        """See Task: the names, and the threshold."""
        super().write_answering(directory)
        write_text(directory / ANSWERING_FILE, pretty_json({"threshold": self.threshold}) + "\n")


MARKS: dict[Any, int] = {0: 0, 1: 1, "0": 0, "1": 1, "false": 0, "true": 1, "False": 0, "True": 1, "": 0, None: 0}
