"""What text and image classification share: labels, loss, metric."""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.data.splits import column, columns_of, place_of, read_split
from prune2deploy.errors import InputError
from prune2deploy.tasks.base import Arrays, Samples, Task
from prune2deploy.tasks.labels import LabelColumn, class_of_label, label_texts
from prune2deploy.tasks.metrics import Accuracy
from prune2deploy.tasks.objectives import Categorical, Joint, Outputs

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

LABEL_NAMES = ("label", "labels")
LOGITS = "logits"
NO_LABEL = ""  # in the project file: this data has no labels


class Classification(Task):
    """One label a sample; logits [n, classes]."""

    reads_first_token = True
    outputs = (LOGITS,)
    objective = Joint({LOGITS: Categorical()})
    make_samples: "Callable[[Dataset, np.ndarray | None, str], Samples]"  # of rows, their labels, and the split they are of

    def calibration(self, count: int, seed: int) -> Samples:
        """See Task."""
        rows = read_split(self.data, self.data.calibration, self.root)
        if len(rows) > count:
            rows = rows.select(sorted(self._drawn(rows, count, seed)))
        return self.make_samples(rows, self._labels(rows, self.data.calibration, required=False), self.data.calibration)

    def reserve(self, count: int, seed: int, taken: int) -> Samples | None:
        """See Task."""
        rows = read_split(self.data, self.data.calibration, self.root)
        if len(rows) <= taken:
            return None
        left = np.setdiff1d(np.arange(len(rows)), self._drawn(rows, taken, seed))
        rows = rows.select(sorted(np.random.default_rng(seed).permutation(left)[:count].tolist()))
        return self.make_samples(rows, self._labels(rows, self.data.calibration, required=False), self.data.calibration)

    def evaluation(self) -> Samples:
        """See Task."""
        rows = read_split(self.data, self.data.evaluation, self.root)
        return self.make_samples(rows, self._labels(rows, self.data.evaluation, required=True), self.data.evaluation)

    def place(self, index: int) -> str:
        """See Task."""
        return self.placed(read_split(self.data, self.data.evaluation, self.root), index, self.data.evaluation)

    def placed(self, rows: "Dataset", index: int, split: str) -> str:
        """Where row `index` of `rows`, which are of `split`, comes from."""
        return f"{place_of(rows, index, self.data, split, self.root)} (split {split!r})"

    def _drawn(self, rows: "Dataset", count: int, seed: int) -> list[int]:
        """`count` different rows, each as likely as its size says: statistics are sums over tokens."""
        sizes = self.sizes(rows, self.data.calibration)
        shares = None if sizes is None else sizes / sizes.sum()
        return np.random.default_rng(seed).choice(len(rows), size=count, replace=False, p=shares).tolist()

    def sizes(self, rows: "Dataset", split: str) -> np.ndarray | None:
        """How much each of `rows`, of `split`, has to say, [n], above 0; None where they are all alike."""
        return None

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """Class indices, [n]; None where the project says that there are none, and, unless `required`, where none are."""
        name = self.data.columns.get("label")
        if not name or (name not in columns_of(rows) and not required):
            return None
        column(rows, "label", self.data.columns, self.data.path, split)
        whole = self._label_column(split)
        assert whole is not None
        found = label_texts(whole, self._class_names)
        missing = [row for row, text in enumerate(found) if text is None]
        if len(missing) == len(found) and not required:
            return None
        if missing:
            raise InputError(
                f"data {self.data.path!r}: {len(missing)} of {len(found)} samples have no {name!r}, the first is "
                f"{whole.place(missing[0])}: leave them out, or do without labels (`init --unlabelled`)"
            )
        taken = label_texts(replace(whole, values=rows[name][:]), self._class_names)
        return np.asarray([self._classes[text] for text in taken if text is not None], dtype=np.int64)

    @functools.cached_property
    def _classes(self) -> dict[str, int]:
        """The class of every label that either split holds, as text: one reading for both, whatever is drawn from them."""
        columns = [self._label_column(split) for split in (self.data.calibration, self.data.evaluation)]
        return class_of_label([found for found in columns if found], self._class_names, self.data.path)

    @property
    def _class_names(self) -> list[str]:
        return [str(self.config.id2label[index]) for index in range(self.config.num_labels)]

    def _label_column(self, split: str) -> LabelColumn | None:
        """All labels of `split`; None where it has no such column."""
        rows, name = read_split(self.data, split, self.root), self.data.columns["label"]
        if name not in columns_of(rows):
            return None

        names = getattr(rows.features[name], "names", None)
        return LabelColumn(split, rows[name][:], names, lambda row: self.placed(rows, row, split))

    def metric(self) -> Accuracy:
        """See Task."""
        return Accuracy(LOGITS)

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The likeliest class of each sample."""
        return outputs[LOGITS].values.argmax(-1)

    def constant(self, labels: np.ndarray) -> Arrays:
        """See Task: all for the most frequent class."""
        outputs = np.zeros((len(labels), self.config.num_labels))
        outputs[:, np.bincount(labels).argmax()] = 1
        return {LOGITS: outputs}

    def anew(self) -> "PreTrainedModel":
        """The model, loaded as anybody would load it, in float32."""
        import torch
        import transformers

        model_class = getattr(transformers, self.config.architectures[0])
        return model_class.from_pretrained(
            self.model_dir, config=copy.deepcopy(self.config), dtype=torch.float32, use_safetensors=True,
            trust_remote_code=False, attn_implementation="eager",
        ).eval()  # fmt: skip

    def in_order(self, answer: list[Any]) -> np.ndarray:
        """What a pipeline answers to one sample, a score for each label, as the logits [classes]."""
        rows = answer[0] if isinstance(answer[0], list) else answer
        scores = {row["label"]: row["score"] for row in rows}
        return np.asarray([scores[self.config.id2label[index]] for index in range(self.config.num_labels)])

    def label_names(self) -> list[str]:
        """See Task: line feeds end names in a label file, so none stay inside; raises InputError where two names meet."""
        lines = [name.replace("\n", " ") for name in self._class_names]
        if twice := next((line for line in lines if lines.count(line) > 1), None):
            raise InputError(f"{self.model_dir}: two labels are {twice!r} on one line; rename one in config.json (id2label)")
        return lines


def called(name: str, features: dict[str, object]) -> str | None:
    """The column called `name`, or the only one that is called so in other letters (`Text`); None where there is none."""
    alike = [name] if name in features else [each for each in features if each.lower() == name]
    return alike[0] if len(alike) == 1 else None


def guess_label(features: dict[str, object], given: dict[str, str], where: str) -> str:
    """The label column; `NO_LABEL` only where the user said so."""
    if "label" in given:
        return given["label"]
    for name in LABEL_NAMES:
        if found := called(name, features):
            return found
    raise InputError(
        f"data {where!r} has no label column among: {', '.join(features)}; name it with --label, or say --unlabelled "
        "to calibrate on the model's own soft labels"
    )
