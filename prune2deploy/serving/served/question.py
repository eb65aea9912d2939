"""Questions and contexts to token ids: a long context in windows that overlap, each of them a row.

Copied into packages as `preprocessing.py`; needs numpy and tokenizers.
"""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

CONTEXT = 1  # the number of the second text


class Preprocessor:
    """The model's own tokenizer, as `tokenizer.json` and `preprocessing.json` in `directory` say."""

    def __init__(self, directory: Path):
        settings = json.loads((directory / "preprocessing.json").read_text(encoding="utf-8"))
        self.columns: list[str] = settings["columns"]
        self.padding: dict[str, int] = settings["padding"]
        self.lengths: list[int] = settings["lengths"]
        self.stride: int = settings["stride"]
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
        self.tokenizer.no_padding()

    def __call__(self, columns: dict[str, list[bytes]]) -> dict[str, np.ndarray]:
        """Inputs of the model, [windows, length], those of one row after those of the row before.

        Beside them `ROWS`, [windows], which row a window is of, and `SPANS`, [windows, length, 2], the characters of the
        context that each token is, -1 where it is none of it. Raises ValueError for what is no text, and for a question
        without end.
        """
        questions, contexts = ([decoded(text) for text in columns[name]] for name in self.columns)
        windows = []
        for row, (question, context) in enumerate(zip(questions, contexts, strict=True)):
            windows += [(row, encoding) for encoding in self.windows(question, context)]
        longest = max((len(encoding.ids) for _, encoding in windows), default=0)
        length = next(each for each in self.lengths if each >= longest)
        arrays = {name: np.full((len(windows), length), value, dtype=np.int64) for name, value in self.padding.items()}
        spans = np.full((len(windows), length, 2), -1, dtype=np.int64)
        for place, (_, encoding) in enumerate(windows):
            parts = {
                "input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids
            }  # fmt: skip
            for name, array in arrays.items():
                array[place, : len(encoding.ids)] = parts[name]
            for token, (side, (start, end)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True)):
                if side == CONTEXT and start < end:
                    spans[place, token] = start, end
        return {**arrays, "ROWS": np.array([row for row, _ in windows], dtype=np.int64), "SPANS": spans}

    def windows(self, question: str, context: str) -> list:
        """The encodings of one question."""
        limit = self.lengths[-1]
        self.tokenizer.no_truncation()
        taken = len(self.tokenizer.encode(question, add_special_tokens=False).ids)
        room = limit - taken - self.tokenizer.num_special_tokens_to_add(is_pair=True)
        if room < 2:
            raise ValueError(f"the question is {taken} tokens long, and {limit} are read at once: ask a shorter one")
        self.tokenizer.enable_truncation(limit, stride=min(self.stride, room // 2), strategy="only_second")
        # without a context, it is a single text, as to transformers
        first = self.tokenizer.encode(question, context) if context else self.tokenizer.encode(question)
        return [first, *first.overflowing]


def decoded(text: bytes) -> str:
    """`text` as a string."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"a text is not UTF-8: {error}") from None
