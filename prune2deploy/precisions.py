"""The precisions that a block can be computed in, and the grids that its numbers are rounded to.

A weight is a whole number times the scale of its row, or of a group of inputs in that row. An input is one of 256 whole
numbers, unsigned, whose range is that of the calls (`dynamic`) or of calibration samples (`static`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import nn

BlockPrecision = Literal["fp32", "fp16", "bf16", "int8-dynamic", "int8", "int8-weights", "int4-weights"]
INPUT_STEPS = 255  # from the lowest to the highest input
CLIPPED = np.linspace(1.0, 0.5, 26)  # shares of the largest number, one of which a grid reaches to
ANY_RANGE = (-4.0, 4.0)  # of inputs, where nothing but time counts
BINS = 4096  # of the histogram that the range of inputs is chosen on


@dataclass(frozen=True)
class Format:
    """How the products of a block are computed: bits of a weight, inputs that share a scale (0: a row), and inputs."""

    bits: int
    group: int
    inputs: Literal["exact", "dynamic", "static"]

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
}


@dataclass(frozen=True)
class Rounding:
    """Of one linear layer. `scale`: [outputs, groups] float32; `low`, `high`: of its inputs, where they are static."""

    precision: str
    scale: np.ndarray
    low: float = 0.0
    high: float = 0.0

    @property
    def format(self) -> Format:
        """What its precision means."""
        return FORMATS[self.precision]

    def codes(self, weight: np.ndarray) -> np.ndarray:
        """The whole numbers of `weight`, [outputs, inputs], int8."""
        return np.rint(weight / spread(self.scale, weight.shape[1], self.format.group)).astype(np.int8)

    def input_grid(self) -> tuple[np.float32, int]:
        """(scale, zero point) of static inputs."""
        return input_grid(self.low, self.high)


def spread(scale: np.ndarray, inputs: int, group: int) -> np.ndarray:
    """`scale`, [outputs, groups], for each of the `inputs`: [outputs, inputs], or [outputs, 1] where it is of rows."""
    return np.repeat(scale, group, axis=1)[:, :inputs] if group else scale


def input_grid(low: float, high: float) -> tuple[np.float32, int]:
    """(scale, zero point) of unsigned 8-bit inputs between `low` and `high`, as ONNX's DynamicQuantizeLinear has them."""
    low, high = min(low, 0.0), max(high, 0.0)  # zero has a number of its own: padding and vanished units stay exact
    scale = np.float32((high - low) / INPUT_STEPS) if high > low else np.float32(1.0)
    return scale, int(np.clip(np.rint(np.float32(-low) / scale), 0, INPUT_STEPS))


def grouped(weight: np.ndarray, group: int) -> np.ndarray:
    """`weight`, [outputs, inputs], as [outputs, groups, inputs of a group], with zeros behind the last one."""
    if not group:
        return weight[:, None, :]
    missing = -weight.shape[1] % group
    return np.pad(weight, ((0, 0), (0, missing))).reshape(len(weight), -1, group)


def scales_of(
    weight: np.ndarray, precision: str, narrow: bool, shares: "Iterable[float]" = tuple(CLIPPED)
) -> np.ndarray:
    """[outputs, groups] float32: scales of least squared error, among those that reach to `shares` of the largest weight."""
    form = FORMATS[precision]
    largest, parts = form.largest(narrow), grouped(weight.astype(np.float32), form.group)
    reach = np.maximum(np.abs(parts).max(-1), np.finfo(np.float32).tiny * 2**20)
    best, least = reach / largest, np.full(reach.shape, np.inf, dtype=np.float32)
    for share in shares:
        scale = (share * reach / largest).astype(np.float32)
        rounded = np.clip(np.rint(parts / scale[..., None]), -largest, largest) * scale[..., None]
        error = np.square(rounded - parts).sum(-1)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
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
    weights = {path: module.get_parameter(f"{path}.weight").detach().numpy() for path in paths}
    return {
        path: Rounding(precision, scales_of(weight, precision, narrow, (1.0,)), *ANY_RANGE)
        for path, weight in weights.items()
    }


def rounded_weight(
    weight: np.ndarray, precision: str, narrow: bool, scale: np.ndarray | None = None
) -> np.ndarray:
    """`weight` rounded to nearest. `scale`: [outputs, groups]; None: that of least squared error."""
    form = FORMATS[precision]
    step = spread(scales_of(weight, precision, narrow) if scale is None else scale, weight.shape[1], form.group)
    largest = form.largest(narrow)
    return np.clip(np.rint(weight / step), -largest, largest) * step
