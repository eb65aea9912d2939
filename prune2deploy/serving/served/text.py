"""Texts to token ids, padded to a few lengths, so that the server can batch requests of different lengths.

Copied into packages as `preprocessing.py`; needs numpy and tokenizers.
"""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


class Preprocessor:
    """The model's own tokenizer, as `tokenizer.json` and `preprocessing.json` in `directory` say.

    Where these ask for `offsets`, it says which characters of the text each token is, -1 where it is none of it. Where they
    tell of `choices`, the second of a pair is a list of as many texts in JSON, and inputs are [n, choices, length].
    """

    def __init__(self, directory: Path):
        settings = json.loads((directory / "preprocessing.json").read_text(encoding="utf-8"))
        self.columns: list[str] = settings["columns"]
        self.padding: dict[str, int] = settings["padding"]
        self.lengths: list[int] = settings["lengths"]
        self.offsets: bool = settings.get("offsets", False)
        self.choices: int = settings.get("choices", 0)
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.lengths[-1], strategy="longest_first", direction=settings["truncation_side"])

    def __call__(self, columns: dict[str, list[bytes]]) -> dict[str, np.ndarray]:
        """Inputs of the model, [n, length]; raises ValueError for what is no text."""
        texts = [[decoded(text) for text in columns[name]] for name in self.columns]
        if self.choices:
            repeated = [text for text in texts[0] for _ in range(self.choices)]
            texts = [repeated, [choice for row in texts[1] for choice in self.listed(row)]]
        # a pair whose second text is empty is a single text to transformers, too
        rows = [row if len(row) > 1 and row[1] else row[0] for row in zip(*texts, strict=True)]
        encodings = self.tokenizer.encode_batch(rows)
        longest = max((len(encoding.ids) for encoding in encodings), default=0)
        length = next(each for each in self.lengths if each >= longest)
        arrays = {name: np.full((len(rows), length), value, dtype=np.int64) for name, value in self.padding.items()}
        offsets = np.full((len(rows), length, 2), -1, dtype=np.int64)
        for row, encoding in enumerate(encodings):
            own = np.flatnonzero(np.logical_not(encoding.special_tokens_mask))
            offsets[row, own] = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[own]
            parts = {
                "input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids
            }  # fmt: skip
            for name, array in arrays.items():
                array[row, : len(encoding.ids)] = parts[name]
        if self.choices:
            return {name: array.reshape(-1, self.choices, length) for name, array in arrays.items()}
        return {**arrays, "OFFSETS": offsets} if self.offsets else arrays

    def listed(self, text: str) -> list[str]:
        """The choices in a list in JSON; raises ValueError where there are more or fewer than the model was made for."""
        found: list[str] = json.loads(text)
        if len(found) != self.choices:
            raise ValueError(f"{len(found)} choices, and the model takes {self.choices}")
        return found


def decoded(text: bytes) -> str:
    """`text` as a string."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"a text is not UTF-8: {error}") from None
