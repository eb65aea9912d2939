"""Classification of single texts and of pairs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.configuration import MULTI_LABEL
from prune2deploy.tasks.base import RawSample, Samples
from prune2deploy.tasks.classification import Classification, guess_label
from prune2deploy.tasks.rows import called
from prune2deploy.tasks.texts import FromTexts, TextSamples, single_text

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence"), ("question1", "question2"),
         ("text1", "text2"), ("text", "text_pair"))  # fmt: skip


class TextClassification(FromTexts, Classification):
    """Text, or a pair of texts, to one label."""

    name = "text-classification"
    architecture_suffix = "ForSequenceClassification"
    needs = " with two outputs or more"
    sentence_transformer = True
    columns = ("text", "text_pair", "label")

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """See Task."""
        return super().is_for(config) and config.num_labels > 1 and config.problem_type != MULTI_LABEL

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        columns: dict[str, str] = {role: given[role] for role in ("text", "text_pair") if role in given}
        if "text" not in columns:
            pairs = ((called(first, features), called(second, features)) for first, second in PAIRS)
            first, second = next(((first, second) for first, second in pairs if first and second), (None, None))
            if first and second and "text_pair" not in columns:
                columns = {"text": first, "text_pair": second}
            else:
                columns = {"text": single_text(features, where), **columns}
        return {**columns, "label": guess_label(features, given, where)}

    def make_samples(self, rows: "Dataset", labels: np.ndarray | None, split: str) -> Samples:
        """Tokenise `rows`, of `split`; raises InputError, naming the row, where a text is no text."""
        return TextSamples(self.encoded(rows, split), labels, self.padding)

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: `pipeline("text-classification")`."""
        from transformers import pipeline

        tokenizer, cut = self.cutting()
        classify = pipeline("text-classification", model=model or self.anew(), tokenizer=tokenizer, device="cpu")

        def answer(sample: RawSample) -> np.ndarray:
            texts = [text.decode() for text in sample.values()]
            given = dict(zip(("text", "text_pair"), texts, strict=False)) if self.pairs else texts[0]
            return self.in_order(classify(given, top_k=None, function_to_apply="none", **cut))

        return answer
