"""The precisions that a block can be computed in, and the grids that its numbers are rounded to.

A weight is a whole number times the scale of its row, or of a group of inputs in that row; or, of few bits, one of 16 levels
on two pieces (PWLQ). An input is one of 256 whole numbers, unsigned, whose range is that of the calls (`dynamic`) or of
calibration samples (`static`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import nn

INPUT_STEPS = 255  # from the lowest to the highest input
CLIPPED = tuple(np.linspace(1.0, 0.5, 26).tolist())  # shares of the largest number, one of which a grid reaches to
BREAKS = tuple(np.linspace(0.1, 0.9, 17).tolist())  # of that again, where the first of two pieces may end
LEVELS = 8  # of either sign, half of them on each of two pieces
ANY_RANGE = (-4.0, 4.0)  # of inputs, where nothing but time counts
BINS = 4096  # of the histogram that the range of inputs is chosen on
SMALLEST = float(np.finfo(np.float32).tiny) * 2**20  # that a grid reaches to, if all is zero


@dataclass(frozen=True)
class Format:
    """How the products of a block are computed.

    `bits`: of a weight; `group`: inputs that share a scale, 0: all of a row; `inputs`: how they are rounded; `pieces`: 2
    where levels are not evenly spaced.
    """

    bits: int
    group: int
    inputs: Literal["exact", "dynamic", "static"]
    pieces: int = 1

    @property
    def by_integers(self) -> bool:
        """Whether whole numbers are multiplied, and not only stored."""
        return self.inputs != "exact"

    def largest(self, narrow: bool) -> int:
        """The largest whole number of a weight. `narrow`: of 7 bits, where products of 8 would saturate."""
        return 2 ** (self.bits - 1 - int(narrow and self.by_integers)) - 1


FORMATS: dict[str, Format] = {
    "int8-dynamic": Format(8, 0, "dynamic"),
    "int8": Format(8, 0, "static"),
    "int8-weights": Format(8, 32, "exact"),
    "int4-weights": Format(4, 32, "exact"),
    "pwlq4-weights": Format(4, 0, "exact", pieces=2),
}


@dataclass(frozen=True)
class Rounding:
    """How one linear layer is rounded.

    `scale`: [outputs, groups] float32, or of two pieces [outputs, 2], where the first ends and where the second does;
    `low`, `high`: of its inputs, where they are static; `narrow`: see `Format`.
    """

    precision: str
    scale: np.ndarray
    low: float = 0.0
    high: float = 0.0
    narrow: bool = False

    @property
    def format(self) -> Format:
        """What its precision means."""
        return FORMATS[self.precision]

    def nearest(self, weight: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """`weight`, [outputs, inputs], or these `columns` of it, on the grid."""
        if self.format.pieces == 2:
            return np.take_along_axis(levels_of(self.scale), self.codes(weight, columns).astype(np.int64), axis=1)
        return self.codes(weight, columns) * self._steps(weight, columns)

    def codes(self, weight: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """The whole numbers of `weight`, or of these `columns` of it, int8: with a sign, or of two pieces the level's."""
        if self.format.pieces == 2:
            levels = levels_of(self.scale)
            edges = (levels[:, 1:LEVELS] + levels[:, : LEVELS - 1]) / 2
            place = sum((np.abs(weight) > edges[:, [index]]).astype(np.int8) for index in range(LEVELS - 1))
            return (place + LEVELS * (weight < 0)).astype(np.int8)
        largest = self.format.largest(self.narrow)
        return np.clip(np.rint(weight / self._steps(weight, columns)), -largest, largest).astype(np.int8)

    def _steps(self, weight: np.ndarray, columns: slice) -> np.ndarray:
        """The scale at each of the `columns`: [outputs, columns], or [outputs, 1] where it is of rows."""
        group = self.format.group
        return np.repeat(self.scale, group, axis=1)[:, columns][:, : weight.shape[1]] if group else self.scale

    def input_grid(self) -> tuple[np.float32, int]:
        """(scale, zero point) of static inputs."""
        return input_grid(self.low, self.high)


def input_grid(low: float, high: float) -> tuple[np.float32, int]:
    """(scale, zero point) of unsigned 8-bit inputs between `low` and `high`, as ONNX's DynamicQuantizeLinear has them."""
    low, high = min(low, 0.0), max(high, 0.0)  # zero has a number of its own: padding and vanished units stay exact
    scale = np.float32((high - low) / INPUT_STEPS) if high > low else np.float32(1.0)
    return scale, int(np.clip(np.rint(np.float32(-low) / scale), 0, INPUT_STEPS))


def levels_of(pieces: np.ndarray) -> np.ndarray:
    """The 16 levels of each row, [outputs, 16], those below zero last. `pieces`: [outputs, 2], see `Rounding`."""
    below, above = level_factors()
    sizes = pieces[:, [0]] * below + pieces[:, [1]] * above
    return np.concatenate([sizes, -sizes], axis=1).astype(np.float32)


def level_factors() -> tuple[np.ndarray, np.ndarray]:
    """By what the end of the first piece, and that of the second, count in each of the 8 levels above zero."""
    half = LEVELS // 2
    middles = (np.arange(half) + 0.5) / half  # of evenly spaced intervals
    return np.concatenate([middles, 1 - middles]), np.concatenate([np.zeros(half), middles])


def grouped(weight: np.ndarray, group: int) -> np.ndarray:
    """`weight`, [outputs, inputs], as [outputs, groups, inputs of a group], with zeros behind the last one."""
    if not group:
        return weight[:, None, :]
    missing = -weight.shape[1] % group
    return np.pad(weight, ((0, 0), (0, missing))).reshape(len(weight), -1, group)


def grid_of(weight: np.ndarray, precision: str, narrow: bool, shares: Iterable[float] = CLIPPED) -> Rounding:
    """The grid of least squared error for `weight`, among those that reach to one of `shares` of the largest weight."""
    form, weight = FORMATS[precision], weight.astype(np.float32)
    if form.pieces == 2:
        return Rounding(precision, _pieces(weight, precision, shares), narrow=narrow)
    largest, parts = form.largest(narrow), grouped(weight, form.group)
    reach = np.maximum(np.abs(parts).max(-1), SMALLEST)
    best, least = reach / largest, np.full(reach.shape, np.inf, dtype=np.float32)
    for share in shares:
        scale = (share * reach / largest).astype(np.float32)
        rounded = np.clip(np.rint(parts / scale[..., None]), -largest, largest) * scale[..., None]
        error = np.square(rounded - parts).sum(-1)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return Rounding(precision, best.astype(np.float32), narrow=narrow)


def _pieces(weight: np.ndarray, precision: str, shares: Iterable[float]) -> np.ndarray:
    """[outputs, 2]: where two pieces end (PWLQ, Fang et al. 2020, with the break point searched for in each row)."""
    reach = np.maximum(np.abs(weight).max(1), SMALLEST)
    best, least = np.stack([reach / 2, reach], axis=1), np.full(len(weight), np.inf)
    for share in tuple(shares)[::5]:
        for first in BREAKS:
            pieces = (share * reach[:, None] * np.array([first, 1.0])).astype(np.float32)
            error = np.square(Rounding(precision, pieces).nearest(weight) - weight).sum(1)
            best, least = np.where((error < least)[:, None], pieces, best), np.minimum(error, least)
    return best.astype(np.float32)


def range_of(values: np.ndarray) -> tuple[float, float]:
    """(low, high) of inputs that lie like `values`: of least squared error, among those that cut the same share off both."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if high <= low:
        return low, high
    counts, edges = np.histogram(values, BINS, (low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    best, least = (low, high), np.inf
    for share in CLIPPED:
        scale, zero = input_grid(share * low, share * high)
        rounded = (np.clip(np.rint(middles / scale) + zero, 0, INPUT_STEPS) - zero) * scale
        error = float((counts * np.square(rounded - middles)).sum())
        if error < least:
            best, least = (share * low, share * high), error
    return best


def for_timing(module: "nn.Module", paths: Iterable[str], precision: str, narrow: bool) -> dict[str, Rounding]:
    """How the linear layers at `paths` of `module` are rounded where nothing but time counts."""
    found = {}
    for path in paths:
        grid = grid_of(module.get_parameter(f"{path}.weight").detach().numpy(), precision, narrow, (1.0,))
        found[path] = Rounding(precision, grid.scale, *ANY_RANGE, narrow)
    return found
