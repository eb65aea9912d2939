"""The sweep: time every stack of a curve against its full one, and turn the differences into the curve.

Engines of one curve are built, timed at every workload point and let go, so that memory holds no more than one group. A
lower precision is looked at first, at two widths: where it is no faster than the engine's own, it loses accuracy for
nothing, and is measured no further.
"""

from collections.abc import Sequence

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.models.table import Curve
from prune2deploy.profiling.grid import coarse_widths, refined_widths, thinned_widths
from prune2deploy.profiling.kept import Kept
from prune2deploy.profiling.stacks import Stacks
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Engine, Runtime
from prune2deploy.runtimes.measure import Timing, interleaved

COARSE_ROUNDS = 12  # enough to see where a curve bends
ROUNDS = 40
EVERY = 32  # units up to which every width is measured: heads
COARSEST = 4  # steps that a block must have to be measured in steps
GAIN = 0.03  # of the stack's latency, that a lower precision must save somewhere
Built = tuple[int, str | None]  # a stack's width, and the precision of its blocks if it is not the engine's own


class Sweep:
    """Measures one curve of a model, in one precision after another."""

    def __init__(
        self, stacks: Stacks, runtime: Runtime, precision: str, units: int, progress: Progress, kept: Kept
    ):
        """`precision`: the engine's own."""
        self.stacks, self.runtime, self.precision, self.units = stacks, runtime, precision, units
        self.progress, self.kept = progress, kept
        self.engines: dict[Built, Engine] = {}

    def curves(self, workload: list[WorkloadPoint], lower: Sequence[str] = ()) -> list[list[Curve]]:
        """At each point of the workload, milliseconds that one run of the block adds at each measured width.

        The engine's own precision comes first, and then those of `lower` that are faster anywhere; a single one is asked
        for, and measured whatever it takes.
        """
        grid = self._grid(workload[0])
        found = [[self._curve(grid, None, self._time(grid, None, point, ROUNDS))] for point in workload]
        for precision in lower if self.stacks.takes_precisions else ():
            if len(lower) == 1 or self._pays(precision, workload):
                widths = thinned_widths(grid) if self.units > EVERY else grid
                for curves, point in zip(found, workload, strict=True):
                    curves.append(self._curve(widths, precision, self._time(widths, precision, point, ROUNDS)))
                self.engines = {key: engine for key, engine in self.engines.items() if key[1] is None}
        return found

    def _grid(self, point: WorkloadPoint) -> list[int]:
        """The widths to measure: every one of a few units, of many the finer where a first look at `point` bends."""
        if self.units <= EVERY:
            return list(range(self.units + 1))
        step = self.runtime.filter_step if self.units >= COARSEST * self.runtime.filter_step else 1
        coarse = coarse_widths(self.units, step)
        timings = self._time(coarse, None, point, COARSE_ROUNDS)
        ms = [timings[width, None].median_ms for width in coarse]
        return refined_widths(coarse, list(np.maximum.accumulate(ms)), step)

    def _pays(self, precision: str, workload: list[WorkloadPoint]) -> bool:
        """Whether blocks in this precision are faster than in the engine's own at some width and point."""
        looked_at = sorted({max(1, self.units // 2), self.units})
        best = np.inf
        for point in workload:
            timings = self._time(looked_at, precision, point, COARSE_ROUNDS, both=True)
            empty = timings[0, None].median_ms
            for width in looked_at:
                own, less = (timings[width, kind].median_ms for kind in (None, precision))
                if less < (1 - GAIN) * own:
                    return True
                best = min(best, (less - empty) / max(own - empty, 1e-9))
        why = f": {reason}" if (reason := self.runtime.why_slow(precision)) else ""
        self.progress.note(
            f"{precision} takes {best:.2f} times as long as {self.precision} for {self.stacks.curve} here{why}; left out"
        )
        return False

    def _curve(self, widths: list[int], precision: str | None, timings: dict[Built, Timing]) -> Curve:
        empty = timings[0, None]
        of_width = [timings[width, precision if width else None] for width in widths]
        added = [max(0.0, (timing.median_ms - empty.median_ms) / self.stacks.runs) for timing in of_width]
        errors = [
            float(np.hypot(timing.standard_error_ms, empty.standard_error_ms)) / self.stacks.runs for timing in of_width
        ]
        return Curve(
            precision=precision or self.precision, widths=widths,
            ms=[round(ms, 6) if width else 0.0 for width, ms in zip(widths, added, strict=True)],
            standard_error_ms=[round(error, 6) for error in errors],
        )  # fmt: skip

    def _time(
        self, widths: list[int], precision: str | None, point: WorkloadPoint, rounds: int, both: bool = False
    ) -> dict[Built, Timing]:
        """Stacks of these widths, beside the empty one and the full one in the engine's own precision."""
        wanted: list[Built] = [(width, precision if width else None) for width in widths]
        wanted += [(width, None) for width in ([0, *widths] if both else [0, self.units])]
        keys = {_name(key): key for key in dict.fromkeys(wanted)}
        timings = self.kept.timings(
            f"{self.stacks.curve}, {self.stacks.runs} blocks", list(keys), point, rounds,
            lambda: self._measured(keys, precision, point, rounds),
        )  # fmt: skip
        return {key: timings[name] for name, key in keys.items()}

    def _measured(
        self, keys: dict[str, Built], precision: str | None, point: WorkloadPoint, rounds: int
    ) -> dict[str, Timing]:
        self._build([key for key in keys.values() if key not in self.engines])
        inputs = self.stacks.inputs(point.batch, point.seq_len)
        runs = {name: self.engines[key].timed(inputs) for name, key in keys.items()}
        full: Built = (self.units, None)
        what = f"{self.stacks.curve} in {precision}" if precision else self.stacks.curve
        description = f"timing {what} at {point}" if rounds == ROUNDS else f"a first look at {what}"
        return interleaved(runs, _name(full), rounds, self.progress, description, watch=self.engines[full].watch())

    def _build(self, keys: list[Built]) -> None:
        with self.progress.track(f"building graphs of {self.stacks.curve}", len(keys)) as advance:
            for width, precision in keys:
                path = self.stacks.path(width, precision, self.runtime.narrow)
                self.engines[width, precision] = self.runtime.build(path)
                advance()


def _name(key: Built) -> str:
    width, precision = key
    return f"{width} {precision}" if precision else str(width)
