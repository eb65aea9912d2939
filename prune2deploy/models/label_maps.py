"""`id2label` and `label2id` of a configuration, which people write by hand and which must be inverse of each other."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune2deploy.errors import InputError

PLACEHOLDER = re.compile(r"LABEL_\d+")  # what transformers calls a class that nobody has named
DEFAULT_LABELS = 2  # of a configuration that says nothing


def is_placeholder(names: Mapping[int, str]) -> bool:
    """Whether `names` say nothing."""
    return all(PLACEHOLDER.fullmatch(name) for name in names.values())


def label_names(values: Mapping[str, Any], path: Path) -> list[str]:
    """The names of the model's outputs, in their order, from what the configuration at `path` holds.

    A map that is missing, or that nobody has filled in, follows from the other. Raises InputError where ids do not run
    from 0 to n - 1, two outputs share a name, or the maps contradict each other.
    """
    forward, backward = _id2label(values.get("id2label"), path), _label2id(values.get("label2id"), path)
    if forward and backward and forward != backward:
        if not (is_placeholder(forward) or is_placeholder(backward)):
            raise InputError(
                f"{path}: id2label says {_shown(forward)}, and label2id says {_shown(backward)}: make them the inverse of "
                "each other"
            )
        forward = backward if is_placeholder(forward) else forward
    names = forward or backward
    count = values.get("num_labels")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise InputError(f"{path}: num_labels is {count!r}, which is no number of labels; leave it out, or write id2label")
    if not names:
        return [f"LABEL_{index}" for index in range(count or DEFAULT_LABELS)]
    if count is not None and count != len(names):
        raise InputError(f"{path}: num_labels is {count}, and there are {len(names)} labels ({_shown(names)})")
    return [names[index] for index in range(len(names))]


def _id2label(given: Any, path: Path) -> dict[int, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{path}: id2label is no map from ids to names")
    for index, name in given.items():
        if not isinstance(name, str | int | float):
            raise InputError(f"{path}: id2label calls output {index} {name!r}, which is no name")
    return _checked([(index, str(name)) for index, name in given.items()], "id2label", path)


def _label2id(given: Any, path: Path) -> dict[int, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{path}: label2id is no map from names to ids")
    return _checked([(index, str(name)) for name, index in given.items()], "label2id", path)


def _checked(pairs: list[tuple[Any, str]], which: str, path: Path) -> dict[int, str]:
    """`pairs` of an id and a name as a map in the order of the ids."""
    names: dict[int, str] = {}
    for index, name in pairs:
        number = int(index) if str(index).isdecimal() else None
        if number is None:
            raise InputError(f"{path}: {which}: {index!r} is no id; ids run from 0 to {len(pairs) - 1}")
        if number in names:
            raise InputError(f"{path}: {which} gives id {number} to {names[number]!r} and to {name!r}")
        names[number] = name
        _refuse_unwritable(name, which, path)
    if sorted(names) != list(range(len(names))):
        raise InputError(
            f"{path}: {which} has the ids {_listed(sorted(names))}; the model's outputs count from 0 to {len(names) - 1}: "
            "number them so, in the order of the outputs"
        )
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise InputError(f"{path}: {which} calls two outputs {twice!r}: give each a name of its own")
    return {index: names[index] for index in sorted(names)}


def _refuse_unwritable(name: str, which: str, path: Path) -> None:
    """Raise InputError for a name that no file of labels, a line each, can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: {which} has the name {name!r}, which holds half a letter (a lone surrogate)") from None
    if "\n" in name:
        raise InputError(f"{path}: {which} has {name!r} with a line break, and a server keeps a label a line: rename it")


def _shown(names: Mapping[int, str]) -> str:
    return _listed([f"{index} {name}" for index, name in sorted(names.items())])


def _listed(items: list[Any]) -> str:
    return ", ".join(map(str, items[:6])) + (f", … ({len(items)} in all)" if len(items) > 6 else "")
