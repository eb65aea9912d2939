"""Latency of several engines over a whole workload, against the dense one."""

import time
from dataclasses import dataclass

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import UnstableMeasurementError, WaitedInVainError
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Arrays, Engine
from prune2deploy.runtimes.measure import Timing, interleaved
from prune2deploy.runtimes.quiet import Patience

DENSE = "dense"
ROUNDS = 40
LARGEST_SPREAD = 0.15  # of an engine's rounds; on a quiet machine it is 0.02 to 0.05
PAUSES = (5.0, 15.0, 45.0)  # seconds, before another try on a machine that something disturbs


@dataclass(frozen=True)
class WorkloadTiming:
    """One engine: a timing per workload point, and the mean of their medians, weighted as the workload is."""

    points: list[Timing]
    ms: float

    @property
    def spread(self) -> float:
        """The largest spread of any point."""
        return max(timing.spread for timing in self.points)


def time_workload(
    engines: dict[str, Engine], workload: list[tuple[WorkloadPoint, Arrays]], progress: Progress, description: str,
    rounds: int = ROUNDS,
) -> dict[str, WorkloadTiming]:
    """Time `engines`, interleaved with engines["dense"].

    What was measured while something disturbed the machine is thrown away, and measured again after a pause, and then as
    long as there is patience (`quiet`). Raises UnstableMeasurementError where that does not end.

    Args:
        engines: by name, the dense one among them.
        workload: its points, each with inputs of its shape.
        progress: told about each round.
        description: what is being measured.
        rounds: visits to each engine; more where the machine has not settled.
    """
    pauses, patience = iter(PAUSES), Patience(progress)
    while True:
        try:
            return _time_once(engines, workload, progress, description, rounds)
        except WaitedInVainError:
            raise
        except UnstableMeasurementError as error:
            pause = next(pauses, None)
            if pause is None:
                patience.wait(error, engines[DENSE].watch())
                continue
            progress.note(f"{str(error).split(';')[0]}; measuring again in {pause:g} s")
            time.sleep(pause)


def _time_once(
    engines: dict[str, Engine], workload: list[tuple[WorkloadPoint, Arrays]], progress: Progress, description: str,
    rounds: int,
) -> dict[str, WorkloadTiming]:
    per_point = []
    for point, inputs in workload:
        runs = {name: engine.timed(inputs) for name, engine in engines.items()}
        per_point.append(
            interleaved(runs, DENSE, rounds, progress, f"{description}, {point}", watch=engines[DENSE].watch())
        )
    weights = [point.weight for point, _ in workload]
    found = {}
    for name in engines:
        points = [timings[name] for timings in per_point]
        mean = float(np.average([timing.median_ms for timing in points], weights=weights))
        found[name] = WorkloadTiming(points, mean)
        if found[name].spread > LARGEST_SPREAD:
            raise UnstableMeasurementError(
                f"the machine is too noisy: measurements of the {name} engine spread by {100 * found[name].spread:.0f} %; "
                "run this again when it is quiet"
            )
    return found
