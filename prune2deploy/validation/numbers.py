"""Numbers as the report prints them."""

import math

NOTHING = "–"


def number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits; never in powers of ten, unless it is tiny."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -3:
        return f"{value:.{max(1, digits - 2)}e}"
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def percent(share: float | None, signed: bool = False) -> str:
    """`share` of one in percent."""
    if share is None:
        return NOTHING
    return f"{100 * share:{'+' if signed else ''}.1f} %"


def duration(seconds: float) -> str:
    """`seconds` as a person says them."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def megabytes(size: int) -> str:
    """`size` in bytes as megabytes."""
    return f"{size / 1e6:,.1f} MB"
