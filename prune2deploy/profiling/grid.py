"""Which widths to measure: every head count, and filters finer where the latency curve bends."""

import numpy as np

FFN_POINTS = 24  # widths of an FFN curve, 0 and the dense width among them
COARSE = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)


def coarse_widths(units: int, step: int) -> list[int]:
    """A first grid from 0 to `units` in multiples of `step`, denser at the small end."""
    widths = {max(step, round(units * share / step) * step) for share in COARSE}
    return [0, *sorted(width for width in widths if width < units), units]


def refined_widths(widths: list[int], ms: list[float], step: int, count: int = FFN_POINTS) -> list[int]:
    """`widths` with midpoints added where the measured curve bends or the grid is wide, until there are `count`.

    An interval's claim to a midpoint is its share of the whole range plus the share of the whole latency by which the
    slopes on both its sides would disagree about its middle.
    """
    grid = list(widths)
    while len(grid) < count:
        claims = [_claim(grid, widths, ms, index) for index in range(len(grid) - 1)]
        for index in np.argsort(claims)[::-1]:
            low, high = grid[index], grid[index + 1]
            middle = round((low + high) / 2 / step) * step
            if low < middle < high:
                grid.insert(int(index) + 1, middle)
                break
        else:
            return grid  # every interval is as narrow as a step
    return grid


def _claim(grid: list[int], widths: list[int], ms: list[float], index: int) -> float:
    low, high = grid[index], grid[index + 1]
    position = int(np.searchsorted(widths, low, side="right")) - 1  # the measured interval that holds [low, high]
    slopes = np.diff(ms) / np.diff(widths)
    around = slopes[max(0, position - 1) : position + 2]
    bend = float(around.max() - around.min()) * (high - low) / 2
    return (high - low) / widths[-1] + bend / max(ms[-1], 1e-12)


def thinned_widths(widths: list[int]) -> list[int]:
    """Every second of `widths`, the first and the last among them: what another precision is measured at."""
    return sorted({*widths[::2], widths[-1]})
