"""A label for each word of a text: entities, parts of speech."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.data.splits import column, columns_of, read_split
from prune2deploy.errors import InputError
from prune2deploy.tasks.base import LOGITS, Arrays, Labels, Metrics, RawSample, Run, Samples, Serving
from prune2deploy.tasks.by_class import counts_of
from prune2deploy.tasks.classification import class_names, guess_label, label_lines, write_labels
from prune2deploy.tasks.entities import EntityF1
from prune2deploy.tasks.labels import LabelColumn, class_of_label, label_texts
from prune2deploy.tasks.metrics import Accuracy
from prune2deploy.tasks.objectives import IGNORED, Categorical, Joint, Outputs
from prune2deploy.tasks.own_tokenizer import TYPES
from prune2deploy.tasks.rows import first_called
from prune2deploy.tasks.texts import FromTexts, TextSamples

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedModel

WORDS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels", "label", "pos_tags")


class TokenClassification(FromTexts):
    """A list of words, and as many labels; logits [n, tokens, labels].

    What is read is what a server reads: the words as one text, with a space between them. The label of a word counts at
    its first token, as everywhere; its other tokens, and those around the text, have none.
    """

    name = "token-classification"
    architecture_suffix = "ForTokenClassification"
    reads_first_token = False
    columns = ("text", "label")
    outputs = (LOGITS,)
    objective = Joint({LOGITS: Categorical(per_position=True)})
    metrics: ClassVar[Metrics] = {
        "f1": lambda task, samples: EntityF1(LOGITS, class_names(task.config)),
        "accuracy": lambda task, samples: Accuracy(LOGITS, per_position=True),
    }  # fmt: skip
    serving = Serving(
        outputs={LOGITS: "LOGITS"}, answer="entities_model", gives={"ENTITIES": ("string", (1,))},
        passed={"OFFSETS": ("int64", (-1, 2))},
    )  # fmt: skip
    least_of_own = 0.25

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        text = given.get("text") or first_called(WORDS, features)
        if text is None:
            raise InputError(
                f"data {where!r}: which column has the words, a list for each row? Name it with --text; it has: "
                f"{', '.join(features)}"
            )
        label = first_called(TAGS, features)
        return {"text": text, "label": guess_label(features, given if label is None else {"label": label, **given}, where)}

    def usual_metric(self, samples: Samples) -> str:
        """See Task: that of entities where labels are called as theirs are."""
        return "f1" if any(name[:2] in ("B-", "I-") for name in class_names(self.config)) else "accuracy"

    def texts(self, rows: "Dataset", split: str) -> list[list[str]]:
        """See FromTexts: of each row's words."""
        return [[" ".join(words) for words in self._words(rows, split)]]

    def _words(self, rows: "Dataset", split: str) -> list[list[str]]:
        """The words of each row; raises InputError, naming it, where they are none."""
        found = rows[column(rows, "text", self.data.columns, self.data.path, split)][:]
        for row, words in enumerate(found):
            if not isinstance(words, list) or any(not isinstance(word, str) for word in words):
                kind = "a list with something else" if isinstance(words, list) else f"a {type(words).__name__}"
                raise InputError(
                    f"data {self.data.path!r}, {self.placed(rows, row, split)}: the words are {kind}; give a list of strings"
                )
        return found

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows."""
        self.refuse_slow_tokenizer()
        words = self._words(rows, split)
        encoded = self.tokenizer(
            [" ".join(each) for each in words], truncation=True, max_length=self.limit, return_attention_mask=True,
            return_token_type_ids=TYPES in self.input_names, return_offsets_mapping=True,
        )  # fmt: skip
        classes = self._labels(rows, words, split, judged)
        labels = None
        if classes is not None:
            labels = [
                np.asarray(at_tokens(each, offsets, of_row))
                for each, offsets, of_row in zip(words, encoded["offset_mapping"], classes, strict=True)
            ]
        inputs = {name: encoded[name] for name in self.input_names}
        return TextSamples(inputs, labels, self.padding, self.config.num_labels)

    def _labels(self, rows: "Dataset", words: list[list[str]], split: str, required: bool) -> list[list[int]] | None:
        """The class of every word; None where the project says that there are none, and, unless `required`, none are."""
        name = self.data.columns.get("label")
        if not name or (name not in columns_of(rows) and not required):
            return None
        name = column(rows, "label", self.data.columns, self.data.path, split)
        lists = rows[name][:]
        for row, (mine, labels) in enumerate(zip(words, lists, strict=True)):
            if not isinstance(labels, list) or len(labels) != len(mine):
                said = f"{len(labels)} labels for" if isinstance(labels, list) else f"{labels!r:.40} as the labels of"
                raise InputError(
                    f"data {self.data.path!r}, {self.placed(rows, row, split)}: {said} {len(mine)} words; give one for each"
                )
        texts = iter(label_texts(self._column(rows, split), class_names(self.config)))
        found = [[next(texts) for _ in labels] for labels in lists]
        return [[IGNORED if text in (None, str(IGNORED)) else self._classes[text] for text in labels] for labels in found]

    def _column(self, rows: "Dataset", split: str) -> LabelColumn:
        """All labels of `rows`, one after the other."""
        name = self.data.columns["label"]
        lists = rows[name][:]
        places = [row for row, labels in enumerate(lists) for _ in labels or ()]
        feature = rows.features[name]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        values = [label for labels in lists for label in labels or ()]
        return LabelColumn(split, values, names, lambda place: self.placed(rows, places[place], split))

    @functools.cached_property
    def _classes(self) -> dict[str, int]:
        """The class of every label that either split holds, as text; those that do not count (-100) aside."""
        columns = []
        for split in dict.fromkeys((self.data.calibration, self.data.evaluation)):
            rows = read_split(self.data, split, self.root)
            if self.data.columns["label"] in columns_of(rows):
                columns.append(_counting(self._column(rows, split)))
        return class_of_label(columns, class_names(self.config), self.data.path)

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The likeliest label at each token."""
        return outputs[LOGITS].values.argmax(-1)

    def constant(self, labels: Labels) -> Run:
        """See Task: the most frequent label, always."""
        known = np.concatenate(list(labels))
        answer = np.zeros(self.config.num_labels, dtype=np.float32)
        answer[np.bincount(known[known != IGNORED]).argmax()] = 1

        def run(inputs: Arrays) -> Arrays:
            return {LOGITS: np.broadcast_to(answer, (*inputs["input_ids"].shape, len(answer)))}

        return run

    def classes(self) -> list[str]:
        """See Task: labels of tokens."""
        return class_names(self.config)

    def answered(self, said: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """See Task."""
        there = labels != IGNORED if counted is None else counted & (labels != IGNORED)
        return counts_of(said[LOGITS].argmax(-1)[there], labels[there], self.config.num_labels)

    def label_names(self) -> list[str]:
        """See Task."""
        return label_lines(self.config, self.model_dir)

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: what `pipeline("token-classification")` makes its answer of, [tokens, labels]."""
        from transformers import pipeline

        tokenizer, cut = self.cutting()
        if "max_length" in cut:
            tokenizer.model_max_length = cut["max_length"]  # this pipeline takes no other
        tag = pipeline("token-classification", model=model or self.anew(), tokenizer=tokenizer, device="cpu")

        def answer(sample: RawSample) -> np.ndarray:
            [given] = tag.preprocess(sample[self.raw_names[0]].decode(), is_split_into_words=False)
            return tag.forward(given)["logits"][0].numpy()

        return answer

    def preprocessing_settings(self) -> dict[str, Any]:
        """See FromTexts."""
        return {"offsets": True}

    def write_answering(self, directory: "Path") -> None:
        """See Task: the names, one a line."""
        write_labels(directory, self.label_names())


def _counting(column: LabelColumn) -> LabelColumn:
    """`column` without the labels that do not count."""
    kept = [place for place, value in enumerate(column.values) if value != IGNORED]
    values = [column.values[place] for place in kept]
    return LabelColumn(column.split, values, column.names, lambda place: column.place(kept[place]))


def at_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]], classes: Sequence[int]) -> list[int]:
    """The class at each token: that of a word at the first token of it, `IGNORED` elsewhere.

    Args:
        words: of a text that has a space between them.
        offsets: of each token, where in the text it begins and ends; nothing of it, of tokens around the text.
        classes: of each word.
    """
    starts = np.concatenate([[0], np.cumsum([len(word) + 1 for word in words])]).astype(int)
    found, last = [], -1
    for start, end in offsets:
        word = int(np.searchsorted(starts, end - 1, side="right")) - 1  # a token may have the space before its word in it
        inside = start < end and word < len(words) and end - 1 < starts[word] + len(words[word])
        found.append(classes[word] if inside and word > last else IGNORED)
        last = max(last, word) if inside else last
    return found
