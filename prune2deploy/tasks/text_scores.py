"""Numbers that a text or a pair of texts is given: regression, and the one logit of a reranker."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import LOGITS, Arrays, Labels, Metrics, Run, Samples, Serving
from prune2deploy.tasks.metrics import Correlation, RankCorrelation, SquaredError
from prune2deploy.tasks.objectives import Gaussian, Joint, Outputs
from prune2deploy.tasks.ranking import Reranking
from prune2deploy.tasks.rows import called, first_called
from prune2deploy.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig

RANKED = (("query", "passage"), ("query", "document"), ("query", "text"), ("question", "answer"))
RELEVANCE = ("relevance", "score", "label", "labels")
SHARED = 0.5  # of the pairs, whose first text has several second ones: then these are candidates to rank


class TextScores(TextClassification):
    """Text, or a pair of texts, to one number; logits [n, 1].

    Pairs whose first text comes with several second ones, some of them relevant (above 0), are candidates to rank.
    """

    name = "text-scores"
    needs = " with one output"
    objective = Joint({LOGITS: Gaussian()})
    metrics: ClassVar[Metrics] = {
        "spearman": lambda task, samples: RankCorrelation(LOGITS),
        "pearson": lambda task, samples: Correlation(LOGITS),
        "mse": lambda task, samples: SquaredError(LOGITS),
        "ndcg@10": lambda task, samples: task.ranking(samples, "ndcg@10"),
        "mrr@10": lambda task, samples: task.ranking(samples, "mrr@10"),
    }  # fmt: skip
    serving = Serving(
        outputs={LOGITS: "LOGITS"}, chain="rerank_model", takes={"QUERY": ("string", (1,)), "PASSAGES": ("string", (-1,))},
        gives={"SCORES": ("float32", (-1,))},
    )  # fmt: skip

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """See Task."""
        return super(TextClassification, cls).is_for(config) and config.num_labels == 1

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        pairs = ((called(first, features), called(second, features)) for first, second in RANKED)
        first, second = next(((first, second) for first, second in pairs if first and second), (None, None))
        if first and second and not {"text", "text_pair"} & set(given):
            given = {"text": first, "text_pair": second, **given}
        label = first_called(RELEVANCE, features)
        if label and "label" not in given:
            given = {**given, "label": label}
        return super().guess_columns(features, given, where)

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """Numbers [n], or, of candidates to rank, [n, 2]: (relevance, the number of the query).

        None where the project says that there are none, and, unless `required`, where none are.
        """
        name = self._named_label(rows, split, required)
        if not name:
            return None
        found = [as_number(value) for value in rows[name][:]]
        missing = [row for row, value in enumerate(found) if value is None]
        if len(missing) == len(found) and not required:
            return None
        if missing:
            value = rows[name][missing[0]]
            raise InputError(
                f"data {self.data.path!r}, {self.placed(rows, missing[0], split)}: the score is {value!r}, and no number; "
                "mend it, leave the row out, or do without labels (`init --unlabelled`)"
            )
        scores = np.asarray(found, dtype=np.float32)
        if not self._are_ranked(rows, split):
            return scores
        if (scores < 0).any():
            row = int((scores < 0).argmax())
            raise InputError(
                f"data {self.data.path!r}, {self.placed(rows, row, split)}: the relevance is {scores[row]:g}: give 0 where "
                "a passage is not relevant, and more where it is"
            )
        if required and not scores.any():
            raise InputError(
                f"data {self.data.path!r}, split {split!r}: no query has a relevant passage (a label above 0): another "
                "column (--label), or none (`init --unlabelled`)?"
            )
        queries: dict[str, int] = {}
        numbers = [queries.setdefault(text, len(queries)) for text in self.texts(rows, split)[0]]
        return np.stack([scores, np.asarray(numbers, dtype=np.float32)], axis=1)

    def _are_ranked(self, rows: "Dataset", split: str) -> bool:
        """Whether `rows`, of `split`, are candidates to rank: as the metric says, or else as most of them look."""
        if self.scoring.metric:
            return self.scoring.metric in ("ndcg@10", "mrr@10") and self.pairs
        if not self.pairs:
            return False
        firsts = self.texts(rows, split)[0]
        _, counts = np.unique(firsts, return_counts=True)
        return bool(counts[counts > 1].sum() >= SHARED * len(firsts))

    def usual_metric(self, samples: Samples) -> str:
        """See Task."""
        return "ndcg@10" if samples.label_axes == 2 else "spearman"

    def ranking(self, samples: Samples, quality: str) -> Reranking:
        """The metric of that name in ranking.py; raises InputError where there is nothing to rank."""
        if samples.label_axes != 2:
            raise InputError(
                f"data {self.data.path!r}: {quality} ranks the passages of a query, and needs pairs of texts with labels "
                "(--text, --text-pair, --label), several of each first text"
            )
        return Reranking(LOGITS, quality)

    def targets(self, labels: np.ndarray) -> "dict[str, torch.Tensor] | None":
        """See Task: relevance is no score that a model should give."""
        return None if labels.ndim == 2 else super().targets(labels)

    def classes(self) -> list[str]:
        """See Task: a score is in no class."""
        return []

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The number of each sample."""
        return outputs[LOGITS].values[:, 0]

    def constant(self, labels: Labels) -> Run:
        """See Task: the mean."""
        answer = np.full((1, 1), np.mean(np.asarray(labels).reshape(len(labels), -1)[:, 0]), dtype=np.float32)

        def run(inputs: Arrays) -> Arrays:
            return {LOGITS: np.repeat(answer, len(inputs["input_ids"]), axis=0)}

        return run

    def label_names(self) -> list[str]:
        """See Task: a number has no name."""
        return []

    def write_answering(self, directory: Path) -> None:
        """See Task: there is nothing to be told of a number."""

    def least(self, samples: Samples) -> float:
        """See Task: a model says nothing of which candidates are relevant."""
        return 0.0 if samples.label_axes == 2 else super().least(samples)


def as_number(value: object) -> float | None:
    """`value` as a number, whatever a file's format keeps it as; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
