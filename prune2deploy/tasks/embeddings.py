"""One vector of a text, for search and comparison: what an encoder without a head is used for."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.config import DataSettings, ScoringSettings
from prune2deploy.data.splits import column, columns_of
from prune2deploy.errors import InputError
from prune2deploy.models.family import class_of, family_of, takes_images
from prune2deploy.models.sentence_modules import SentenceModules, read_modules
from prune2deploy.tasks.base import Metrics, RawSample, Samples
from prune2deploy.tasks.objectives import Cosine, Joint
from prune2deploy.tasks.ranking import Retrieval, Similarity
from prune2deploy.tasks.rows import called, first_called
from prune2deploy.tasks.text_scores import as_number
from prune2deploy.tasks.texts import FromTexts, TextSamples, single_text
from prune2deploy.tasks.vectors import Vectors

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

VECTOR = "sentence_embedding"  # as others call it, and no operator
TOKENS = "last_hidden_state"
COMPARED = (("sentence1", "sentence2"), ("text1", "text2"))  # two texts and a score
SEARCHED = (("query", "document"), ("query", "passage"), ("query", "positive"), ("anchor", "positive"),
            ("question", "answer"), ("question", "context"), ("question", "passage"))  # fmt: skip
SCORES = ("score", "similarity_score", "similarity", "label", "labels")
# what models call the prompt of a query and that of a document
PROMPTS = {"text": ("query",), "text_pair": ("document", "passage", "corpus")}


class Embeddings(Vectors, FromTexts):
    """Text to one vector, [n, size], as sentence-transformers makes it.

    Data are texts, pairs of texts with a score, or queries each with a document that is right for it.
    """

    name = "embeddings"
    architecture_suffix = "Model"
    needs = " of texts, without a head"
    sentence_transformer = True
    columns = ("text", "text_pair", "label")
    outputs = (VECTOR,)
    objective = Joint({VECTOR: Cosine()})
    metrics: ClassVar[Metrics] = {
        "ndcg@10": lambda task, samples: task.retrieval(samples, "ndcg@10"),
        "recall@1": lambda task, samples: task.retrieval(samples, "recall@1"),
        "recall@10": lambda task, samples: task.retrieval(samples, "recall@10"),
        "spearman": lambda task, samples: task.similarity(samples, ranks=True),
        "pearson": lambda task, samples: task.similarity(samples, ranks=False),
    }  # fmt: skip
    misfit = "are these texts of another kind, another prompt, another model?"

    def __init__(
        self, model_dir: Path, config: "PretrainedConfig", data: DataSettings, root: Path,
        scoring: ScoringSettings | None = None,
    ):
        super().__init__(model_dir, config, data, root, scoring)
        self.pairs = False  # to the model, both texts of a pair are single
        self.gives_tokens = False

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """See Task."""
        return not family_of(config).heads.get(class_of(config), "-") and not takes_images(config)

    @classmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """See Task."""
        if "text" in given:
            return given
        for pairs, scored in ((SEARCHED, False), (COMPARED, True)):
            for first, second in ((called(first, features), called(second, features)) for first, second in pairs):
                if first and second:
                    label = first_called(SCORES, features) if scored else None
                    return {"text": first, "text_pair": second, **({"label": label} if label else {}), **given}
        return {"text": single_text(features, where), **given}

    @functools.cached_property
    def modules(self) -> SentenceModules:
        """What is behind the encoder."""
        return read_modules(self.model_dir)

    @functools.cached_property
    def limit(self) -> int:
        """See FromTexts; never more than sentence-transformers reads."""
        return min(super().limit, self.modules.longest or super().limit)

    def cutting(self) -> "tuple[PreTrainedTokenizerBase, dict[str, Any]]":
        """See FromTexts; sentence-transformers has a limit of its own."""
        tokenizer, cut = super().cutting()
        return tokenizer, cut | {"max_length": self.limit}

    @property
    def together(self) -> int:  # type: ignore[override]
        """See FromRows: both texts of a pair are samples."""
        return 2 if "text_pair" in self.data.columns else 1

    @property
    def reads_first_token(self) -> bool:  # type: ignore[override]
        """See Task."""
        return self.modules.modes == ("cls",)

    def roles(self) -> list[str]:
        """The columns that have texts."""
        return ["text", "text_pair"][: self.together]

    def texts(self, rows: "Dataset", split: str) -> list[list[str]]:
        """See FromTexts: all texts, each behind its prompt, and of pairs both in turn."""
        sides = []
        for role in self.roles():
            name = column(rows, role, self.data.columns, self.data.path, split)
            sides.append(self.checked(rows, rows[name][:], split))
        prompts = [self._prompt(role) for role in self.roles()]
        return [[prompt + text for row in zip(*sides, strict=True) for prompt, text in zip(prompts, row, strict=True)]]

    def _prompt(self, role: str) -> str:
        """What comes before a text in the column of that `role`: of a search that of its side, where the model has one."""
        known = self.modules.prompts
        named = next((name for name in PROMPTS[role] if name in known), None)
        return known[named] if named and self._are_searched else self.modules.prompt

    @property
    def _are_searched(self) -> bool:
        """Whether the second text of a pair is what a search for the first one should find."""
        return self.together == 2 and not self.data.columns.get("label")

    def sizes(self, rows: "Dataset", split: str) -> np.ndarray:
        """See FromRows: of both texts."""
        return super().sizes(rows, split).reshape(-1, self.together).sum(1)

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows."""
        labels = self._labels(rows, split, judged)
        return TextSamples(self.encoded(rows, split), labels, self.padding, together=self.together)

    def _labels(self, rows: "Dataset", split: str, required: bool) -> np.ndarray | None:
        """Of a search the numbers of query and document, [n, 2]; of pairs with a score that, [n]; None of single texts."""
        if self.together == 1:
            return None
        if self._are_searched:
            [texts] = self.texts(rows, split)
            numbers = [numbered(texts[side::2]) for side in range(2)]
            return np.repeat(np.stack(numbers, axis=1), 2, axis=0)
        name = self.data.columns["label"]
        if name not in columns_of(rows) and not required:
            return None
        name = column(rows, "label", self.data.columns, self.data.path, split)
        scores = [as_number(value) for value in rows[name][:]]
        if (wrong := next((row for row, score in enumerate(scores) if score is None), None)) is not None:
            raise InputError(
                f"data {self.data.path!r}, {self.placed(rows, wrong, split)}: the score is {rows[name][wrong]!r}, and no "
                "number; mend it, or leave the row out"
            )
        return np.repeat(np.asarray(scores, dtype=np.float64), 2)

    def usual_metric(self, samples: Samples) -> str:
        """See Task."""
        return "ndcg@10" if samples.label_axes == 2 else "spearman"

    def retrieval(self, samples: Samples, quality: str) -> Retrieval:
        """The metric of that name in ranking.py; raises InputError where there is nothing to search."""
        if samples.label_axes != 2:
            raise InputError(
                f"data {self.data.path!r}: {quality} is of queries and documents: name both columns (--text, --text-pair), "
                "and no label"
            )
        return Retrieval(VECTOR, quality)

    def similarity(self, samples: Samples, ranks: bool) -> Similarity:
        """The correlation with the scores of pairs; raises InputError where there are none."""
        if samples.label_axes != 1:
            raise InputError(
                f"data {self.data.path!r}: {self.scoring.metric} is of pairs with a score: name three columns (--text, "
                "--text-pair, --label)"
            )
        return Similarity(VECTOR, ranks)

    def give_tokens(self) -> None:
        """See Task."""
        self.gives_tokens = True

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """See Task."""
        return (*self.outputs, TOKENS) if self.gives_tokens else self.outputs

    def said(self, model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """See Task."""
        returned = model(**inputs)
        if family_of(self.config).pools_itself:
            return {VECTOR: returned.text_embeds if "text_embeds" in returned else returned.pooler_output}
        vectors = {VECTOR: self.modules.vectors(returned.last_hidden_state, inputs["attention_mask"])}
        return vectors | ({TOKENS: returned.last_hidden_state} if self.gives_tokens else {})

    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """See Task: `pipeline("feature-extraction")`, pooled; of a model that pools itself, its own class and tokenizer."""
        import torch
        from transformers import pipeline

        tokenizer, cut = self.cutting()
        if family_of(self.config).pools_itself:
            return self._own_vector(model or self.anew(), tokenizer, cut)
        extract = pipeline(
            "feature-extraction", model=model or self.anew(), tokenizer=tokenizer, device="cpu", tokenize_kwargs=cut,
            return_tensors=True,
        )  # fmt: skip

        def answer(sample: RawSample) -> np.ndarray:
            hidden = torch.as_tensor(extract(sample[self.raw_names[0]].decode()))
            return self.modules.vectors(hidden, torch.ones(hidden.shape[:2], dtype=torch.int64))[0].numpy()

        return answer

    def _own_vector(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", cut: dict[str, Any]
    ) -> Callable[[RawSample], np.ndarray]:
        import torch

        def answer(sample: RawSample) -> np.ndarray:
            encoded = tokenizer(sample[self.raw_names[0]].decode(), return_tensors="pt", **cut)
            given = {name: encoded[name] for name in self.input_names}
            with torch.no_grad():
                return self.said(model, given)[VECTOR][0].numpy()

        return answer


def numbered(texts: list[str]) -> np.ndarray:
    """The number of each text, [n]: the same for the same text."""
    known: dict[str, int] = {}
    return np.asarray([known.setdefault(text, len(known)) for text in texts])
