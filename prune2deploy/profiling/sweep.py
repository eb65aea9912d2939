"""The sweep: time every stack against the full one, and turn the differences into curves."""

from collections.abc import Iterable

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.models.family import Kind
from prune2deploy.profiling.grid import coarse_widths, refined_widths
from prune2deploy.profiling.kept import Kept
from prune2deploy.profiling.stacks import Stacks
from prune2deploy.profiling.table import Curve
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Engine, Runtime
from prune2deploy.runtimes.measure import Timing, interleaved

COARSE_ROUNDS = 12  # enough to see where a curve bends
ROUNDS = 40
Widths = tuple[int, int]  # of attention and of ffn
EMPTY: Widths = (0, 0)


class Sweep:
    """Measures the curves of one model at one workload point after another."""

    def __init__(self, stacks: Stacks, runtime: Runtime, units: dict[Kind, int], progress: Progress, kept: Kept):
        self.stacks = stacks
        self.runtime = runtime
        self.units = units
        self.progress = progress
        self.kept = kept
        self.engines: dict[Widths, Engine] = {}
        self.full: Widths = (units["attention"], units["ffn"])

    def grids(self, point: WorkloadPoint) -> dict[Kind, list[int]]:
        """The widths to measure, the FFN's refined by a first coarse look at `point`."""
        heads = list(range(self.units["attention"] + 1))
        step = self.runtime.filter_step
        coarse = coarse_widths(self.units["ffn"], step)
        timings = self._time([(0, width) for width in coarse], point, COARSE_ROUNDS, "finding where the FFN curve bends")
        ms = [timings[0, width].median_ms for width in coarse]
        return {"attention": heads, "ffn": refined_widths(coarse, list(np.maximum.accumulate(ms)), step)}

    def curves(self, grids: dict[Kind, list[int]], point: WorkloadPoint) -> dict[Kind, Curve]:
        """Milliseconds that one block adds at each width of `grids`."""
        stacks = [(width, 0) for width in grids["attention"]] + [(0, width) for width in grids["ffn"]]
        timings = self._time(stacks, point, ROUNDS, f"timing blocks at {point}")
        return {
            "attention": self._curve(grids["attention"], {width: timings[width, 0] for width in grids["attention"]}),
            "ffn": self._curve(grids["ffn"], {width: timings[0, width] for width in grids["ffn"]}),
        }

    def _curve(self, widths: list[int], timings: dict[int, Timing]) -> Curve:
        empty = timings[0]
        added = [max(0.0, (timings[width].median_ms - empty.median_ms) / self.stacks.layers) for width in widths]
        errors = [
            float(np.hypot(timings[width].standard_error_ms, empty.standard_error_ms)) / self.stacks.layers
            for width in widths
        ]
        return Curve(
            widths=widths,
            ms=[round(ms, 6) if width else 0.0 for width, ms in zip(widths, added, strict=True)],
            standard_error_ms=[round(error, 6) for error in errors],
        )

    def _time(self, stacks: Iterable[Widths], point: WorkloadPoint, rounds: int, description: str) -> dict[Widths, Timing]:
        wanted = list(dict.fromkeys([*stacks, EMPTY, self.full]))
        timings = self.kept.timings(
            f"stacks of {self.stacks.layers} layers", [_name(widths) for widths in wanted], point, rounds,
            lambda: self._measured(wanted, point, rounds, description),
        )  # fmt: skip
        return {widths: timings[_name(widths)] for widths in wanted}

    def _measured(self, wanted: list[Widths], point: WorkloadPoint, rounds: int, description: str) -> dict[str, Timing]:
        self._build([widths for widths in wanted if widths not in self.engines])
        inputs = self.stacks.inputs(point.batch, point.seq_len)
        runs = {_name(widths): self.engines[widths].timed(inputs) for widths in wanted}
        watch = self.engines[self.full].watch()
        return interleaved(runs, _name(self.full), rounds, self.progress, description, watch=watch)

    def _build(self, stacks: list[Widths]) -> None:
        with self.progress.track("building block graphs", len(stacks)) as advance:
            for attention, ffn in stacks:
                path = self.stacks.path({"attention": attention, "ffn": ffn})
                self.engines[attention, ffn] = self.runtime.build(path)
                advance()


def _name(widths: Widths) -> str:
    return f"{widths[0]}+{widths[1]}"
