"""What names of splits mean, and which splits to calibrate and to evaluate on."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from prune2deploy.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
KEYWORDS = {  # as the hub documents them
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "dev", "val"),
    TEST: ("test", "testing", "eval", "evaluation"),
}
SPLIT_FOLDERS = {word for words in KEYWORDS.values() for word in words}
EXACT = ("train", "validation", "valid", "val", "dev", "validation_matched", "test")  # the first of them wins in its kind
LETTER = r"[^\W\d_]"
PATTERN = re.compile(r"(?P<names>[\w.-]+(?:\+[\w.-]+)*)(?:\[(?P<start>[0-9]*%?):(?P<stop>[0-9]*%?)\])?")


@dataclass(frozen=True)
class Selection:
    """Splits, one after the other, and the share of the whole of them, in percent; `share` None: all, in order."""

    names: tuple[str, ...]
    share: tuple[int, int] | None


def kind_of(name: str) -> str | None:
    """What `name` says that a split is for: a keyword between non-letters, in any case; None where it says nothing clear."""
    kinds = {
        kind for kind, words in KEYWORDS.items()
        if re.search(rf"(?<!{LETTER})(?:{'|'.join(words)})(?!{LETTER})", name, re.IGNORECASE)
    }  # fmt: skip
    return kinds.pop() if len(kinds) == 1 else None


def split_name_of(name: str) -> str:
    """`name` as it can be written in a project file: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]", "_", name)


def selection(split: str) -> Selection:
    """`split` as written in a project: `train`, `train_a+train_b`, or a share of all that is named, `a+b[:50%]`."""
    matched = PATTERN.fullmatch(split)
    if not matched:
        raise InputError(f"data split {split!r}: write a name, or a share such as train[:50%]")
    names = tuple(dict.fromkeys(matched["names"].split("+")))
    if matched["start"] is None and matched["stop"] is None:
        return Selection(names, None)
    bounds = [matched["start"], matched["stop"]]
    if any(bound and not bound.endswith("%") for bound in bounds):
        # datasets would count rows, and shares are drawn: there is no first row
        meant = ":".join(bound and bound.removesuffix("%") + "%" for bound in bounds)
        raise InputError(f"data split {split!r}: rows are not counted out, only shares, as in {matched['names']}[{meant}]")
    start, stop = (int(bound.removesuffix("%") or whole) for bound, whole in zip(bounds, (0, 100), strict=True))
    if not 0 <= start < stop <= 100:
        raise InputError(f"data split {split!r}: shares run from 0 to 100 %, the first below the second")
    return Selection(names, (start, stop))


def selected(split: str, splits: Collection[str], where: str) -> Selection:
    """`selection(split)`; raises InputError where the data has no such split."""
    chosen = selection(split)
    if missing := [name for name in chosen.names if name not in splits]:
        raise InputError(f"data {where!r} has no split {missing[0]!r}; it has: {', '.join(map(str, splits))}")
    return chosen


def guess_splits(splits: Mapping[str, object], where: str) -> tuple[str, str]:
    """What to calibrate and what to evaluate on, by the names of `splits`.

    Calibrated on is what is called training; where nothing is, what has no such name; evaluated on is validation, or else
    test. Several splits of one kind count as one. Where only one kind is there, it is shared out half and half.
    """
    if not splits:
        raise InputError(f"data {where!r} holds no split")
    kinds: dict[str | None, str] = {
        kind: _joined([name for name in splits if kind_of(name) == kind])
        for kind in (TRAIN, None, VALIDATION, TEST) if any(kind_of(name) == kind for name in splits)
    }  # fmt: skip
    if TRAIN in kinds:
        kinds.pop(None, None)  # nobody knows what it is
    calibration, *others = kinds.values()
    return (calibration, others[0]) if others else (f"{calibration}[:50%]", f"{calibration}[50%:]")


def share_rows(first: str, second: str) -> bool:
    """Whether two selections, written as in a project, have rows in common."""
    one, other = selection(first), selection(second)
    if one.names != other.names:
        return not set(one.names).isdisjoint(other.names)
    (start, stop), (again, end) = (each.share or (0, 100) for each in (one, other))
    return start < end and again < stop


def unused_splits(splits: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """The names among `splits` that none of `chosen`, written as in a project, speaks of."""
    used = {name for split in chosen for name in selection(split).names}
    return [name for name in splits if name not in used]


def _joined(names: list[str]) -> str:
    """The one with a usual name, or else all of them."""
    usual = [name for wanted in EXACT for name in names if name.lower() == wanted]
    return usual[0] if usual else "+".join(names)
