"""The sweep: time every stack of a curve against its full one, and turn the differences into the curve.

Engines of one curve are built, timed at every workload point and let go, so that memory holds no more than one group.
"""

import numpy as np

from prune2deploy.config import Precision, WorkloadPoint
from prune2deploy.models.table import Curve
from prune2deploy.profiling.grid import coarse_widths, refined_widths
from prune2deploy.profiling.kept import Kept
from prune2deploy.profiling.stacks import Stacks
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Engine, Runtime
from prune2deploy.runtimes.measure import Timing, interleaved

COARSE_ROUNDS = 12  # enough to see where a curve bends
ROUNDS = 40
EVERY = 32  # units up to which every width is measured: heads
COARSEST = 4  # steps that a block must have to be measured in steps


class Sweep:
    """Measures one curve of a model, at one workload point after another."""

    def __init__(
        self, stacks: Stacks, runtime: Runtime, precision: Precision, units: int, progress: Progress, kept: Kept
    ):
        self.stacks, self.runtime, self.precision, self.units = stacks, runtime, precision, units
        self.progress, self.kept = progress, kept
        self.engines: dict[int, Engine] = {}

    def curve(self, workload: list[WorkloadPoint]) -> list[Curve]:
        """Milliseconds that one run of the block adds at each measured width, at each point of the workload."""
        grid = self._grid(workload[0])
        timings = (self._time(grid, point, ROUNDS, f"timing {self.stacks.curve} at {point}") for point in workload)
        return [self._curve(grid, at_point) for at_point in timings]

    def _grid(self, point: WorkloadPoint) -> list[int]:
        """The widths to measure: every one of a few units, of many the finer where a first look at `point` bends."""
        if self.units <= EVERY:
            return list(range(self.units + 1))
        step = self.runtime.filter_step if self.units >= COARSEST * self.runtime.filter_step else 1
        coarse = coarse_widths(self.units, step)
        timings = self._time(coarse, point, COARSE_ROUNDS, f"finding where {self.stacks.curve} bends")
        ms = [timings[width].median_ms for width in coarse]
        return refined_widths(coarse, list(np.maximum.accumulate(ms)), step)

    def _curve(self, widths: list[int], timings: dict[int, Timing]) -> Curve:
        empty = timings[0]
        added = [max(0.0, (timings[width].median_ms - empty.median_ms) / self.stacks.runs) for width in widths]
        errors = [
            float(np.hypot(timings[width].standard_error_ms, empty.standard_error_ms)) / self.stacks.runs
            for width in widths
        ]
        return Curve(
            precision=self.precision, widths=widths,
            ms=[round(ms, 6) if width else 0.0 for width, ms in zip(widths, added, strict=True)],
            standard_error_ms=[round(error, 6) for error in errors],
        )

    def _time(self, widths: list[int], point: WorkloadPoint, rounds: int, description: str) -> dict[int, Timing]:
        timings = self.kept.timings(
            f"{self.stacks.curve}, {self.stacks.runs} blocks", [str(width) for width in widths], point, rounds,
            lambda: self._measured(widths, point, rounds, description),
        )  # fmt: skip
        return {width: timings[str(width)] for width in widths}

    def _measured(self, widths: list[int], point: WorkloadPoint, rounds: int, description: str) -> dict[str, Timing]:
        self._build([width for width in widths if width not in self.engines])
        inputs = self.stacks.inputs(point.batch, point.seq_len)
        runs = {str(width): self.engines[width].timed(inputs) for width in widths}
        watch = self.engines[self.units].watch()
        return interleaved(runs, str(self.units), rounds, self.progress, description, watch=watch)

    def _build(self, widths: list[int]) -> None:
        with self.progress.track(f"building graphs of {self.stacks.curve}", len(widths)) as advance:
            for width in widths:
                self.engines[width] = self.runtime.build(self.stacks.path(width))
                advance()
