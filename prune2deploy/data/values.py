"""Values as the text that they are the same label as, however a file's format keeps them."""

import math
from typing import Any


def as_text(value: Any) -> str | None:
    """A value as the text that it is the same label as; None: there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
