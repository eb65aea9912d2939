"""Masked language models: which token a mask stands for."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import LOGITS, Metrics, Samples
from prune2deploy.tasks.metrics import Accuracy, PseudoPerplexity
from prune2deploy.tasks.next_token import NextToken
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.texts import TextSamples

if TYPE_CHECKING:
    from datasets import Dataset

MASKED = 0.15  # of the words that are one token each
LEAST_LETTERS = 2  # of a word that is masked


class MaskedLm(NextToken):
    """Text in which some words are masked; logits [n, positions, vocabulary].

    Masked are words between spaces that are one token, the same in every run. Texts that have none say nothing.
    """

    name = "masked-lm"
    architecture_suffix = "ForMaskedLM"
    cut_to = 512
    metrics: ClassVar[Metrics] = {
        "accuracy": lambda task, samples: Accuracy(LOGITS, per_position=True),
        "pseudo-perplexity": lambda task, samples: PseudoPerplexity(LOGITS),
    }  # fmt: skip

    def texts(self, rows: "Dataset", split: str) -> list[list[str]]:
        """See FromTexts: with the tokenizer's mask in the place of some words."""
        return [[masked for masked, _ in self._masked(rows, split)]]

    def samples_of(self, rows: "Dataset", split: str, judged: bool = False) -> Samples:
        """See FromRows; the label of a mask is the token that was there."""
        pairs = self._masked(rows, split)
        encoded = self.encoded(rows, split)
        labels = []
        for ids, (_, hidden) in zip(encoded["input_ids"], pairs, strict=True):
            places = np.flatnonzero(np.asarray(ids) == self.tokenizer.mask_token_id)
            label = np.full(len(ids), IGNORED)
            label[places] = hidden[: len(places)]  # a long text is cut, and its last masks with it
            labels.append(label)
        if all((label == IGNORED).all() for label in labels):
            raise InputError(f"data {self.data.path!r}: no text of the split {split!r} has a word of one token, to mask")
        return TextSamples(encoded, labels, self.padding, self.config.vocab_size)

    def _masked(self, rows: "Dataset", split: str) -> list[tuple[str, list[int]]]:
        """(text with masks, the tokens that they stand for) of each row."""
        mask = self.tokenizer.mask_token
        if mask is None:
            raise InputError(f"{self.model_dir}: the tokenizer has no mask token (mask_token in tokenizer_config.json)")
        [texts] = super().texts(rows, split)
        known = self._single_tokens({word for text in texts for word in text.split(" ")})
        return [_with_masks(text, known, mask) for text in texts]

    def _single_tokens(self, words: set[str]) -> dict[str, int]:
        """The token that a word is, behind a space, of those `words` that are one."""
        wanted = sorted(word for word in words if len(word) >= LEAST_LETTERS and word.isalpha())
        if not wanted:
            return {}
        plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        before = self.tokenizer("a", **plain)["input_ids"]
        ids = self.tokenizer([f"a {word}" for word in wanted], **plain)["input_ids"]
        return {
            word: found[-1] for word, found in zip(wanted, ids, strict=True)
            if len(found) == len(before) + 1 and found[-1] not in self.tokenizer.all_special_ids
        }  # fmt: skip


def _with_masks(text: str, known: dict[str, int], mask: str) -> tuple[str, list[int]]:
    """`text` with a share of the words in `known` masked, and the tokens that they are; the same for the same text."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if word in known and place]  # a first word has no space before it
    if not places or mask in text:
        return text, []
    rng = np.random.default_rng(list(text.encode()))
    count = max(1, round(MASKED * len(places)))
    chosen = sorted(rng.choice(places, size=count, replace=False).tolist())
    hidden = [known[words[place]] for place in chosen]
    return " ".join(mask if place in set(chosen) else word for place, word in enumerate(words)), hidden
