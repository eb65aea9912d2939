"""How a data set writes down choices, and which of them is right."""

import json
import re
from collections.abc import Iterable
from typing import Any


def choice_columns(name: str, features: Iterable[str]) -> list[str]:
    """The columns that `name` means, in order: several with commas between them, or with a number or a letter for `*`."""
    known = list(features)
    if name in known:
        return [name]
    if "," in name:
        wanted = [each.strip() for each in name.split(",")]
        return wanted if set(wanted) <= set(known) else []
    if name.count("*") != 1:
        return []
    form = re.compile(re.escape(name).replace(r"\*", r"(_?[0-9]{1,3}|_[A-Za-z]|[A-Z])"))
    matched = {each: match[1].strip("_") for each in known if (match := form.fullmatch(each))}
    return sorted(matched, key=lambda each: (len(matched[each]), matched[each]))


def wrong_names(name: str, features: Iterable[str]) -> str:
    """What is wrong with several names of columns, commas between them; empty where nothing is."""
    known, wanted = list(features), [each.strip() for each in name.split(",")]
    if name in known or len(wanted) == 1:
        return ""
    if missing := next((each for each in wanted if each not in known), None):
        return f"no column {missing!r} for the choices"
    twice = next((each for each in wanted if wanted.count(each) > 1), None)
    return f"the column {twice!r} is named twice" if twice else ""


def texts_of(value: Any) -> list[Any]:
    """The choices that a cell holds, whatever they are; none where it is no list."""
    value = _plain(value)
    if isinstance(value, dict):
        value = value.get("text")
    return value if isinstance(value, list) else []


def wrong_with(value: Any) -> str:
    """What is wrong with the choices that a cell holds; empty where nothing is."""
    if isinstance(text := _plain(value), str):
        return f"the choices are one text, {text!r:.40}, and no list"
    texts = texts_of(value)
    if odd := next((place for place, each in enumerate(texts, 1) if not isinstance(each, str)), None):
        text = texts[odd - 1]
        return f"choice {odd} is missing" if text is None else f"choice {odd} is {text!r:.40}, and no text"
    return "" if len(texts) > 1 else f"there is {'one choice' if texts else 'no choice'}"


def _plain(value: Any) -> Any:
    """`value` without the bytes that a column of JSON is kept as where its rows are of several kinds."""
    if not isinstance(value, bytes):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value.decode("utf-8", "replace")


def keys_of(value: Any) -> list[str] | None:
    """What a cell calls its choices, in their order; None where it does not."""
    keys = value.get("label") if isinstance(value, dict) else None
    return [str(each) for each in keys] if isinstance(keys, list) else None


def is_missing(value: Any) -> bool:
    """Whether a label is none: empty, or the -1 of test splits without answers."""
    return value is None or value == "" or number_of(value) == -1


def number_of(value: Any) -> int | None:
    """`value` as a whole number, whatever a file's format keeps it as."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return int(float(value)) if re.fullmatch(r"-?[0-9]{1,6}(\.0*)?", str(value).strip()) else None


def place_of(value: Any, choices: list[str], keys: list[str] | None, first: int) -> int | None:
    """Which of `choices` a label means; `keys`: what the data calls them; `first`: the number of the first one."""
    text = str(value).strip()
    if keys and text in keys:
        return keys.index(text)
    number = number_of(value)
    if number is not None:
        return number - first if 0 <= number - first < len(choices) else None
    if choices.count(value) == 1:
        return choices.index(value)
    letter = ord(text.upper()) - ord("A") if len(text) == 1 else -1
    return letter if 0 <= letter < len(choices) else None
