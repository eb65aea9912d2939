"""Texts and pairs of texts as token ids: what all tasks on text share."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.config import DataSettings, ScoringSettings, WorkloadPoint
from prune2deploy.data.splits import column
from prune2deploy.data.values import unlike_most
from prune2deploy.errors import InputError, NotServableError
from prune2deploy.files import pretty_json, write_text
from prune2deploy.models.family import family_of
from prune2deploy.tasks.base import LARGEST_BATCH, Arrays, Batch, Labels, RawSample, Samples
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.own_tokenizer import TYPES, encode, load_tokenizer, longest_text, sends_types
from prune2deploy.tasks.rows import FromRows, first_called

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

RAW_NAMES = ("TEXT", "TEXT_PAIR")
UNLIMITED = 512  # tokens that texts are cut to where a model knows no limit
SINGLES = ("text", "sentence", "content", "review")


class TextSamples(Samples):
    """Token ids of each text, not yet padded."""

    def __init__(
        self, encoded: dict[str, list[list[int]]], labels: Labels | None, padding: dict[str, int], outputs_each: int = 0,
        together: int = 1,
    ):
        self.encoded = encoded
        self.labels = labels
        self.padding = padding
        self.outputs_each, self.together = outputs_each, together
        self.lengths = [len(ids) for ids in encoded["input_ids"]]

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, indices: list[int]) -> "TextSamples":
        """See Samples."""
        encoded = {name: [rows[index] for index in indices] for name, rows in self.encoded.items()}
        return TextSamples(encoded, self._labels(indices), self.padding, self.outputs_each, self.together)

    def digest(self) -> str:
        """See Samples."""
        labels = None if self.labels is None else [each.tolist() for each in self.labels]
        return hashlib.sha256(json.dumps([self.encoded, labels]).encode()).hexdigest()

    def tokens(self, index: int) -> int:
        """See Samples."""
        return self.lengths[index]

    def order(self) -> list[int]:
        """Short texts first, so that a batch pads little."""
        return sorted(range(len(self)), key=lambda index: (self.lengths[index], index))

    def batch(self, indices: list[int]) -> Batch:
        """Padded to the longest text of the batch."""
        return self.padded(indices, max(self.lengths[index] for index in indices))

    def padded(self, indices: list[int], length: int) -> Batch:
        """Padded, or cut, to `length` tokens."""
        inputs = {
            name: filled([rows[index] for index in indices], length, self.padding[name])
            for name, rows in self.encoded.items()
        }
        labels = self._labels(indices)
        return Batch(inputs, filled(labels, length, IGNORED) if isinstance(labels, list) else labels, counted_in(inputs))

    def _labels(self, indices: list[int]) -> Labels | None:
        if isinstance(self.labels, list):
            return [self.labels[index] for index in indices]
        return None if self.labels is None else self.labels[indices]


class FromTexts(FromRows):
    """Samples are single texts, or, where the project names a second column, pairs."""

    served = "text"
    requires = ("numpy", "tokenizers")
    raw_names: ClassVar[tuple[str, str]] = RAW_NAMES
    cut_to: ClassVar[int] = 131_072  # tokens, where the project does not say

    def __init__(
        self, model_dir: Path, config: "PretrainedConfig", data: DataSettings, root: Path,
        scoring: ScoringSettings | None = None,
    ):
        super().__init__(model_dir, config, data, root, scoring)
        self.longest = family_of(config).longest(config) or UNLIMITED
        self.always_full = family_of(config).always_full
        self.pairs = "text_pair" in data.columns
        if data.max_length and data.max_length > self.longest:
            raise InputError(
                f"data.max_length is {data.max_length}, but the model takes at most {self.longest} tokens: give no more "
                "(--max-length)"
            )

    @property
    def has_pairs(self) -> bool:
        """See Task."""
        return self.pairs

    @functools.cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's own tokenizer, loaded when first needed."""
        return load_tokenizer(self.model_dir, self.config)

    @functools.cached_property
    def input_names(self) -> tuple[str, ...]:
        """What the model is fed; segment ids only where the tokenizer gives others than the model takes by itself."""
        if self.always_full:
            return ("input_ids",)
        typed = sends_types(self.tokenizer, self.pairs, self.config, self.model_dir)
        return ("input_ids", "attention_mask", *((TYPES,) if typed else ()))

    @functools.cached_property
    def limit(self) -> int:
        """The number of tokens that texts are cut to: the project's, or else the tokenizer's own, and the task's at most."""
        own = self.tokenizer.num_special_tokens_to_add(self.pairs)
        if self.data.max_length and self.data.max_length <= own:
            raise InputError(
                f"data.max_length is {self.data.max_length}, and the tokenizer puts {own} tokens around texts: give more "
                "(--max-length)"
            )
        if self.always_full:
            return self.longest
        if self.data.max_length:
            return self.data.max_length
        return min(self.cut_to, longest_text(self.tokenizer, self.longest, self.pairs, self.model_dir))

    @property
    def padding(self) -> dict[str, int]:
        """What each input is filled up with."""
        return {"input_ids": self.tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}

    @classmethod
    def default_point(cls, config: "PretrainedConfig") -> WorkloadPoint:
        """One text of 128 tokens, or as many as the model takes."""
        longest = family_of(config).longest(config) or 128
        return WorkloadPoint(batch=1, seq_len=longest if family_of(config).always_full else min(128, longest), weight=1.0)

    def check_point(self, point: WorkloadPoint) -> None:
        """See Task."""
        if point.seq_len is None:
            raise InputError(f"workload {point}: text needs a sequence length (--seq-len)")
        if point.seq_len > self.longest:
            raise InputError(f"workload {point}: the model takes at most {self.longest} tokens (--seq-len)")
        if self.always_full and point.seq_len != self.longest:
            raise InputError(f"workload {point}: to this model every text is {self.longest} tokens long (--seq-len)")

    def encoded(self, rows: "Dataset", split: str) -> dict[str, list[list[int]]]:
        """Token ids of `rows`, of `split`, by the name of the model's input; raises InputError where a text is no text."""
        found = encode(self.tokenizer, self.texts(rows, split), self.limit, self.input_names)
        if not self.always_full:
            return found
        return {name: filled(values, self.longest, self.padding[name]).tolist() for name, values in found.items()}

    def sizes(self, rows: "Dataset", split: str) -> np.ndarray:
        """Characters of each text or pair, and one for the tokens that every text has around it."""
        texts = self.texts(rows, split)
        return np.asarray([1.0 + sum(map(len, row)) for row in zip(*texts, strict=True)])

    def texts(self, rows: "Dataset", split: str) -> list[list[str]]:
        """The texts, and then where there are pairs their second halves."""
        found = [
            rows[column(rows, role, self.data.columns, self.data.path, split)][:]
            for role in ("text", "text_pair") if role in self.data.columns
        ]  # fmt: skip
        return [self.checked(rows, texts, split) for texts in found]

    def checked(self, rows: "Dataset", texts: list[Any], split: str) -> list[str]:
        """`texts`, a column of `rows`, of `split`; raises InputError where one of them is no text."""
        if any(not isinstance(text, str) for text in texts):
            raise self._no_text(rows, texts, split)
        return texts

    def _no_text(self, rows: "Dataset", texts: list[Any], split: str) -> InputError:
        """What is wrong with the first of `texts` that is none."""
        row, text = next((row, text) for row, text in enumerate(texts) if not isinstance(text, str))
        kind = "missing" if text is None else f"of type {type(text).__name__}, and no string"
        if isinstance(text, bytes):  # JSON of several kinds is kept as bytes: the row to name is the one that differs
            odd = unlike_most(texts)
            row, kind = (row if odd is None else odd), "bytes, or a list or an object among texts; store texts"
        return InputError(f"data {self.data.path!r}, {self.placed(rows, row, split)}: the text is {kind}")

    def synthetic_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """Ids spread over the vocabulary; the very last token is padding, so that the mask is part of every trace."""
        length = self.longest if self.always_full else seq_len or 128
        ids = (np.arange(batch * length, dtype=np.int64) * 7919 % self.config.vocab_size).reshape(batch, length)
        mask = np.ones_like(ids)
        mask[-1, -1] = 0
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: inputs[name] for name in self.input_names}

    def timing_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """The same ids, and no padding."""
        inputs = self.synthetic_inputs(batch, seq_len)
        return {name: np.ones_like(array) if name == "attention_mask" else array for name, array in inputs.items()}

    def workload_inputs(self, samples: Samples, point: WorkloadPoint) -> Arrays:
        """Real texts strung together until every row is full."""
        assert isinstance(samples, TextSamples)
        length = point.seq_len or 128
        inputs = {name: np.empty((point.batch, length), dtype=np.int64) for name in self.input_names}
        start = 0
        for row in range(point.batch):
            filled = 0
            while filled < length:
                index = start % len(samples)
                tokens = min(samples.lengths[index], length - filled)
                for name, array in inputs.items():
                    array[row, filled : filled + tokens] = samples.encoded[name][index][:tokens]
                filled, start = filled + tokens, start + 1
        return inputs

    def counted(self, inputs: Arrays) -> np.ndarray:
        """See Task."""
        return counted_in(inputs)

    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """See Task."""
        axes = {0: "batch"} if self.always_full else {0: "batch", 1: "sequence"}
        return dict.fromkeys(self.input_names, axes)

    def axis_limits(self) -> dict[str, int]:
        """See Task."""
        limits = {"batch": LARGEST_BATCH, "sequence": self.longest}
        return {"batch": LARGEST_BATCH} if self.always_full else limits

    def raw(self, count: int) -> dict[str, list[bytes]]:
        """See Task: UTF-8."""
        rows = self.rows(self.data.evaluation)
        texts = self.texts(rows.select(range(min(count, len(rows)))), self.data.evaluation)
        return {name: list(map(str.encode, column[:count])) for name, column in zip(self.raw_names, texts, strict=False)}

    def odd(self) -> dict[str, RawSample]:
        """See Task."""
        usual = self.raw(8)
        first = " ".join(text.decode() for text in usual[self.raw_names[0]]) or "a"
        long = f"{first} " * (1 + 8 * self.limit // max(1, len(first.split())))
        texts = {
            "an empty text": "",
            "a text of blanks": " \t\n  ",
            "capitals and accents": "ÀÉÎ Straße ＦＵＬＬ İstanbul e\u0301",
            "other scripts": "日本語 🎬 مرحبا नमस्ते \u200b",
            "control characters": "a\u0000b\u0007 c\r\nd",
            "the tokenizer's own tokens": " ".join(["the", *self.tokenizer.all_special_tokens, "end"]),
            "its added tokens": " ".join(["an", *list(self.tokenizer.get_added_vocab())[:32], "end"]),
            "a long text": long,
            "a long word": "x" * 300,
        }
        if not self.pairs:
            return {name: {self.raw_names[0]: text.encode()} for name, text in texts.items()}
        pairs = {name: (first[:80], text) for name, text in texts.items()}
        pairs |= {f"{name} first": (text, first[:80]) for name, text in texts.items()}
        pairs |= {"two empty texts": ("", ""), "two long texts": (long, long)}
        return {name: dict(zip(self.raw_names, map(str.encode, pair), strict=True)) for name, pair in pairs.items()}

    def cutting(self) -> "tuple[PreTrainedTokenizerBase, dict[str, Any]]":
        """The tokenizer as anybody would load it, and how it is told to cut texts: as it says, unless the project does."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.model_dir, config=self.config, trust_remote_code=False)
        if self.always_full:
            full = {"truncation": True, "padding": "max_length", "max_length": self.longest}
            return tokenizer, {**full, "return_attention_mask": False}
        # a tokenizer without a limit of its own leaves long texts to fail in the model
        longest = min(self.longest, self.cut_to)
        limit = {"max_length": self.limit} if self.data.max_length or tokenizer.model_max_length > longest else {}
        return tokenizer, {"truncation": True, **limit}

    def write_preprocessing(self, directory: Path, workload: Sequence[WorkloadPoint]) -> None:
        """See Task: the fast tokenizer, and the lengths that texts are padded to."""
        if not self.tokenizer.is_fast:
            raise NotServableError(
                f"{self.model_dir}: a server needs a fast tokenizer (tokenizer.json), and this model has a slow one only "
                f"({type(self.tokenizer).__name__})"
            )
        write_text(directory / "tokenizer.json", self.tokenizer.backend_tokenizer.to_str())
        settings = {
            "columns": list(self.raw_names[: 2 if self.pairs else 1]),
            "padding": {name: self.padding[name] for name in self.input_names},
            "lengths": [self.longest] if self.always_full else padded_lengths(
                self.limit, [point.seq_len or 128 for point in workload]
            ),
            "truncation_side": self.tokenizer.truncation_side,
            **({"split_special_tokens": True} if self.tokenizer.split_special_tokens else {}),
            **self.preprocessing_settings(),
        }
        write_text(directory / "preprocessing.json", pretty_json(settings) + "\n")


    def preprocessing_settings(self) -> dict[str, Any]:
        """What else the preprocessing on a server must know."""
        return {}

    def refuse_slow_tokenizer(self) -> None:
        """Raise InputError where nothing says which characters a token is of."""
        if not self.tokenizer.is_fast:
            raise InputError(
                f"{self.model_dir}: {self.name} needs a fast tokenizer (tokenizer.json), which says where a token is in the "
                f"text, and this model has a slow one only ({type(self.tokenizer).__name__})"
            )


def filled(rows: Sequence[Sequence[int] | np.ndarray], length: int, value: int) -> np.ndarray:
    """[n, length] int64 of `rows`, cut to `length`, or filled up with `value`."""
    array = np.full((len(rows), length), value, dtype=np.int64)
    for row, tokens in enumerate(rows):
        array[row, : len(tokens)] = tokens[:length]
    return array


def single_text(features: dict[str, object], where: str) -> str:
    """The column that holds the text; raises InputError where none is called so."""
    found = first_called(SINGLES, features)
    if found is None:
        raise InputError(
            f"data {where!r}: which column is the text? Name it with --text; it has: {', '.join(features)}"
        )
    return found


def counted_in(inputs: Arrays) -> np.ndarray:
    """Bool [batch, tokens], which tokens are no padding; all, where the model is not told."""
    mask = inputs.get("attention_mask")
    return np.ones(inputs["input_ids"].shape, dtype=bool) if mask is None else mask.astype(bool)


def padded_lengths(limit: int, wanted: Sequence[int]) -> list[int]:
    """The lengths that a server pads texts to, in order: `wanted`, and steps of a third to a half up to `limit`.

    Finer steps pad less, but only texts of one length are batched.
    """
    steps = (base << power for power in range(limit.bit_length()) for base in (8, 12))
    return sorted({length for length in (*steps, *wanted, limit) if length <= limit})
