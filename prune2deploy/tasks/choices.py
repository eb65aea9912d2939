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


def texts_of(value: Any) -> list[str] | None:
    """The choices that a cell holds; None for what is no list of texts."""
    if isinstance(value, bytes):  # what a column of JSON is kept as where its rows are of several kinds
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, dict):
        value = value.get("text")
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return None
    return value


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
