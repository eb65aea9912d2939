"""How the labels of a data set become the model's classes: by name or by number, decided once for all of its rows.

A label is what it is as text: 1, 1.0 and "1" are the same one, however a file's format keeps it.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prune2deploy.data.values import as_text, unlike_most
from prune2deploy.errors import InputError

PLACEHOLDER = re.compile(r"label_(\d+)", re.IGNORECASE)  # what transformers calls a class that nobody has named
TRUTH = {"false": 0, "true": 1}
SHOWN = 6  # labels in a message


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one split; `names`: of its numbers, where it is a ClassLabel; `place`: where a row is, for messages."""

    split: str
    values: list[Any]
    names: list[str] | None
    place: Callable[[int], str]


def label_texts(column: LabelColumn, names: Sequence[str]) -> list[str | None]:
    """The labels of `column` as text, None where one is missing; an empty text is missing unless a class is called so.

    Raises InputError, naming the row, for what is no single label.
    """
    nothing_is_a_name = any(not name.strip() for name in names)
    texts = []
    for row, value in enumerate(column.values):
        if isinstance(value, list | dict | bytes):
            raise _no_single_label(column, row)
        if column.names is not None and isinstance(value, int):
            value = column.names[value] if 0 <= value < len(column.names) else None if value == -1 else value
        text = as_text(value)
        texts.append(text if text is not None and (text.strip() or nothing_is_a_name) else None)
    return texts


def _no_single_label(column: LabelColumn, row: int) -> InputError:
    """What to raise for `row`, or rather for the one in which the label is of another kind than in the others."""
    row = next((each for each in [unlike_most(column.values)] if each is not None), row)
    value = column.values[row]
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except ValueError:
            return InputError(f"{column.place(row)}: the label is bytes and no text; store the column as strings or numbers")
    kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else f"{value!r} among lists"
    return InputError(f"{column.place(row)}: the label is {kind}: several labels a sample are for --task multi-label")


def class_of_label(columns: Sequence[LabelColumn], names: Sequence[str], where: str) -> dict[str, int]:
    """The class, a place in `names`, of every label in `columns`, as text.

    Labels are names of the model, in any case where that is unambiguous; where not all of them are, they are numbers of
    classes. Raises InputError, showing both, where they are neither, or where two readings are as good.
    """
    first: dict[str, tuple[LabelColumn, int]] = {}
    for column in columns:
        for row, text in enumerate(label_texts(column, names)):
            if text is not None:
                first.setdefault(text, (column, row))
    texts = sorted(first)
    class_names = _class_names(columns, where)
    named = _by_name(texts, names)
    if len(named) == len(texts):
        return named
    numbered = _by_number(texts, class_names, names, where) or _by_truth(texts, names) or _by_either(texts, named, names)
    if numbered is not None:
        return numbered
    unknown = [text for text in texts if text not in named]
    strange = next((text for text in unknown if not _in(text, names)), unknown[0])
    column, row = first[strange]
    value = column.values[row] if column.names is None else strange
    raise InputError(
        f"data {where!r}, {column.place(row)}: label {value!r} is not one of the model's {len(names)} classes "
        f"({_listed(names)}); {_remedy(texts, unknown)}"
    )


def _remedy(texts: Sequence[str], unknown: Sequence[str]) -> str:
    if any(_is_fraction(text) for text in unknown):
        return "numbers with a fraction are scores, and the model has classes"
    return (
        f"the data has {len(texts)} label{'s' if len(texts) != 1 else ''} ({_listed(texts)}): rename them, or the model's "
        "classes (id2label and label2id in its config.json)"
    )


def _class_names(columns: Sequence[LabelColumn], where: str) -> list[str]:
    """The names that the data numbers its labels by; empty where it does not."""
    numbered = [column for column in columns if column.names is not None]
    for column in numbered[1:]:
        if column.names != numbered[0].names:
            raise InputError(
                f"data {where!r}: the splits number their labels otherwise: {_listed(numbered[0].names or [])} in "
                f"{numbered[0].split!r}, {_listed(column.names or [])} in {column.split!r}; give both the same ClassLabel"
            )
    return list(numbered[0].names or []) if numbered else []


def _by_name(texts: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """The classes of those of `texts` that are names: as they stand, or else without spaces around, or without case."""
    found: dict[str, int] = {}
    for form in (str, _bare, _without_zeros, lambda text: _bare(text).casefold()):
        places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(form(name), []).append(place)
        for text in texts:
            at = places.get(form(text), [])
            if len(at) == 1:
                found.setdefault(text, at[0])
    return found


def _bare(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())  # file systems take letters apart


def _without_zeros(text: str) -> str:
    """`text` without the zeros that change no number: 01 and 1.0 are 1."""
    return re.sub(r"^0*([0-9]+?)(?:\.0*)?$", r"\1", _bare(text))


def _number(text: str) -> int | None:
    """The number that `text` is, or that a placeholder holds."""
    bare = _without_zeros(text)
    placeholder = PLACEHOLDER.fullmatch(bare)
    digits = placeholder[1] if placeholder else bare
    return int(digits) if re.fullmatch(r"[0-9]{1,9}", digits) else None


def _in(text: str, names: Sequence[str]) -> bool:
    number = _number(text)
    return number is not None and number < len(names)


def _unnamed(names: Sequence[str]) -> bool:
    return all(PLACEHOLDER.fullmatch(name) for name in names)


def _by_number(texts: Sequence[str], class_names: Sequence[str], names: Sequence[str], where: str) -> dict[str, int] | None:
    """The numbers that all of `texts` are, or that the data has for them."""
    of_text = {text: _number(text) or 0 for text in texts} if all(_in(text, names) for text in texts) else None
    digits = all(_number(name) is not None for name in class_names)
    if len(class_names) < len(names) or not (digits or _unnamed(names)):
        return of_text
    if not all(_in(name, names) for name in class_names):
        of_text = None
    places = {name: place for place, name in enumerate(class_names) if place < len(names)}
    of_data = {text: places[text] for text in texts} if all(text in places for text in texts) else None
    if of_text and of_data and of_text != of_data:
        text = next(text for text in texts if of_text[text] != of_data[text])
        raise InputError(
            f"data {where!r}: label {text!r} may be class {of_text[text]} of the model, or {of_data[text]}, as the data "
            f"numbers it among its {len(class_names)} labels ({_listed(class_names)}); call each by the model's name"
        )
    return of_data or of_text


def _by_truth(texts: Sequence[str], names: Sequence[str]) -> dict[str, int] | None:
    if len(names) != len(TRUTH) or not _unnamed(names) or not all(_bare(text).lower() in TRUTH for text in texts):
        return None
    return {text: TRUTH[_bare(text).lower()] for text in texts}


def _by_either(texts: Sequence[str], named: dict[str, int], names: Sequence[str]) -> dict[str, int] | None:
    """Names and numbers side by side: where no name looks like a number, they cannot be confused."""
    if any(_number(name) is not None for name in names):
        return None
    if not all(text in named or _in(text, names) for text in texts):
        return None
    return {text: named[text] if text in named else _number(text) or 0 for text in texts}


def _is_fraction(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*([eE][+-]?\d+)?", text.strip()) is not None


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f", … {len(items)} in all" if len(items) > SHOWN else "")
