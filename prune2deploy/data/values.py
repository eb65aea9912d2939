"""Values as the text that they are the same label as, however a file's format keeps them."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any


def unlike_most(values: Sequence[Any]) -> int | None:
    """The place of the first of `values` that is not of the kind that most are, lists and objects aside; None: all are.

    Where a column of JSON holds lists or objects among others, all of its values are JSON as bytes, so that no one takes
    them for texts; those who say what is wrong should name the one that is.
    """
    kinds = [_kind(value) for value in values]
    usual = Counter(kind for kind in kinds if kind is not None).most_common(1)
    return next((place for place, kind in enumerate(kinds) if usual and kind not in (None, usual[0][0])), None)


def _kind(value: Any) -> str | None:
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except ValueError:
            return "bytes"
    if value is None:
        return None
    return type(value).__name__ if isinstance(value, list | dict) else "single"


def as_text(value: Any) -> str | None:
    """A value as the text that it is the same label as; None: there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
