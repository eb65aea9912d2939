"""The tokenizer that is saved with a model: loading it, and what it says that the model must be able to do."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.errors import InputError, reason_of
from prune2deploy.files import refuse_missing
from prune2deploy.models.family import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# without any of these, transformers makes up a tokenizer that knows no word
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
TYPES = "token_type_ids"


def load_tokenizer(model_dir: Path, config: "PretrainedConfig") -> "PreTrainedTokenizerBase":
    """The tokenizer in `model_dir`; raises InputError where there is none, or it has tokens that the model does not know."""
    from transformers import AutoTokenizer

    if not any((model_dir / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"{model_dir}: no tokenizer here ({', '.join(TOKENIZER_FILES)}); copy it from the model that this one was "
            "fine-tuned from"
        )
    for name in TOKENIZER_FILES:
        if (model_dir / name).exists() or (model_dir / name).is_symlink():
            refuse_missing(model_dir / name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, config=config, trust_remote_code=False)
        ids = [] if _odd_length(tokenizer) else tokenizer("a", "b")["input_ids"]
    except BaseException as error:  # whatever a parser raises, panics of Rust among it, which are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InputError(f"{model_dir}: no usable tokenizer: {reason_of(error)}") from None
    _refuse_unknown_tokens(tokenizer, config, model_dir)
    if max(ids, default=0) >= config.vocab_size:
        raise InputError(
            f"{model_dir}: the tokenizer puts id {max(ids)} around texts (post_processor in tokenizer.json), and the model "
            f"knows {config.vocab_size}: the tokenizer is not this model's"
        )
    _refuse_chance(tokenizer, model_dir)
    return tokenizer


def _refuse_chance(tokenizer: "PreTrainedTokenizerBase", model_dir: Path) -> None:
    """Raise InputError where the tokenizer draws lots: BPE's dropout is for training."""
    if tokenizer.is_fast and json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("dropout"):
        raise InputError(
            f"{model_dir}: the tokenizer drops merges by chance (dropout in tokenizer.json), so that no answer is the same "
            "twice; set it to null"
        )


def _refuse_unknown_tokens(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig", model_dir: Path) -> None:
    """Raise InputError where a token has no embedding: a server would fail on the first text that has it."""
    unknown = {token: index for token, index in tokenizer.get_vocab().items() if index >= config.vocab_size}
    if not unknown:
        return
    token = min(unknown, key=lambda each: unknown[each])
    advice = (
        "resize the model's embeddings, or take the tokens out of the tokenizer"
        if set(unknown) <= set(tokenizer.get_added_vocab())
        else "the tokenizer is not this model's"
    )
    raise InputError(
        f"{model_dir}: the tokenizer has {'tokens' if len(unknown) > 1 else 'a token'} that the model has no embedding for, "
        f"such as {token!r} (id {unknown[token]}, and the model knows {config.vocab_size}): {advice}"
    )


def longest_text(tokenizer: "PreTrainedTokenizerBase", positions: int, pairs: bool, model_dir: Path) -> int:
    """How many tokens a text is cut to: what the tokenizer says, and never more than the model's `positions`.

    Raises InputError where the tokenizer says what no length can be.
    """
    said, own = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add(pairs)
    if not _odd_length(tokenizer) and said >= positions:
        return positions
    if _odd_length(tokenizer) or said <= own:
        raise InputError(
            f"{model_dir}: model_max_length in tokenizer_config.json is {said!r}: give the number of tokens that texts are "
            f"cut to, more than the {own} that the tokenizer puts around them"
        )
    return int(said)


def _odd_length(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether what the tokenizer calls its greatest length is no number of tokens."""
    said = tokenizer.model_max_length
    if not isinstance(said, int | float) or isinstance(said, bool):
        return True
    return math.isnan(said) or (math.isfinite(said) and said != int(said))


def sends_types(tokenizer: "PreTrainedTokenizerBase", pairs: bool, config: "PretrainedConfig", model_dir: Path) -> bool:
    """Whether texts, or pairs of them, have a segment id other than 0, which the model takes where none is sent.

    Raises InputError where the model has no embedding for one.
    """
    encoded = tokenizer("a", "b") if pairs else tokenizer("a")
    largest = max(encoded.get(TYPES, [0]))
    known = getattr(config, "type_vocab_size", 1)  # a model that knows no segments takes all for the first
    if known == 0 and family_of(config).may_lack_segments:
        return False
    if largest >= known:
        raise InputError(
            f"{model_dir}: the tokenizer gives segment {largest} (token_type_ids), and type_vocab_size is {known}: take "
            "token_type_ids out of model_input_names in tokenizer_config.json if the model was trained without"
        )
    return bool(largest > 0)


def encode(
    tokenizer: "PreTrainedTokenizerBase", columns: list[list[str]], limit: int, names: tuple[str, ...]
) -> dict[str, list[list[int]]]:
    """Token ids of texts, or of pairs of them, by the name of the model's input, cut to `limit` tokens.

    A pair whose second text is empty is a single text, as in a call of the tokenizer for that pair alone.
    """
    alone = [row for row, second in enumerate(columns[-1]) if len(columns) > 1 and not second]
    rest = sorted(set(range(len(columns[0]))) - set(alone))
    encoded: dict[str, list[list[int]]] = {name: [[]] * len(columns[0]) for name in names}
    for rows, given in ((alone, columns[:1]), (rest, columns)):
        if not rows:
            continue
        found = tokenizer(
            *([column[row] for row in rows] for column in given), truncation=True, max_length=limit,
            return_attention_mask=True, return_token_type_ids=TYPES in names,
        )  # fmt: skip
        for name in names:
            for row, ids in zip(rows, found[name], strict=True):
                encoded[name][row] = ids
    return encoded
