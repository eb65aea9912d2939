"""Numbers that a text or a pair of texts is given: regression, and the one logit of a reranker."""

from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import LOGITS, Arrays, Labels, Run
from prune2deploy.tasks.metrics import Metric, RankCorrelation
from prune2deploy.tasks.objectives import Gaussian, Joint, Outputs
from prune2deploy.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig


class TextScores(TextClassification):
    """Text, or a pair of texts, to one number; logits [n, 1]."""

    name = "text-scores"
    needs = " with one output"
    objective = Joint({LOGITS: Gaussian()})

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """See Task."""
        return super(TextClassification, cls).is_for(config) and config.num_labels == 1

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """Numbers, [n]; None where the project says that there are none, and, unless `required`, where none are."""
        name = self._named_label(rows, split, required)
        if not name:
            return None
        found = [_number(value) for value in rows[name][:]]
        missing = [row for row, value in enumerate(found) if value is None]
        if len(missing) == len(found) and not required:
            return None
        if missing:
            value = rows[name][missing[0]]
            raise InputError(
                f"data {self.data.path!r}, {self.placed(rows, missing[0], split)}: the score is {value!r}, and no number; "
                "mend it, leave the row out, or do without labels (`init --unlabelled`)"
            )
        return np.asarray(found, dtype=np.float32)

    def metric(self) -> Metric:
        """See Task."""
        return RankCorrelation(LOGITS)

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The number of each sample."""
        return outputs[LOGITS].values[:, 0]

    def constant(self, labels: Labels) -> Run:
        """See Task: the mean."""
        answer = np.full((1, 1), np.mean(labels), dtype=np.float32)

        def run(inputs: Arrays) -> Arrays:
            return {LOGITS: np.repeat(answer, len(inputs["input_ids"]), axis=0)}

        return run

    def label_names(self) -> list[str]:
        """See Task: a number has no name."""
        return []


def _number(value: object) -> float | None:
    """`value` as a number, whatever a file's format keeps it as; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
