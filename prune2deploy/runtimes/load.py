"""What else keeps the processors busy that we measure on."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from prune2deploy.runtimes.processors import affinity, physical_cores, throttled

OTHERS_LIMIT = 0.5  # cores, of those that we need, that other processes may use while we measure
THROTTLED_LIMIT = 0.01  # of the time
NAMED = 3  # processes in a message
WORTH_NAMING = 0.05  # of a core


@dataclass(frozen=True)
class Reading:
    """Seconds since some moment: of the clock, of our processors, of this process, of being throttled, of all others."""

    wall: float
    busy: float
    own: float
    throttled: float
    others: dict[int, tuple[str, float]]  # by number: the name, and the seconds


class OtherLoad:
    """What other processes used, inside the `with` block, of the processors that this one may use.

    Args:
        threads: how many cores we keep busy ourselves; the others may be used by whom they please.
    """

    def __init__(self, threads: int):
        processors = affinity()
        self.spare = max(0, physical_cores(processors) - threads)
        self.cores = 0.0  # that others used; set at the end of the block, as are the following
        self.busiest: list[tuple[str, float]] = []
        self.held_back = 0.0

    @property
    def problem(self) -> str | None:
        """Why nothing that was measured meanwhile counts; None where nothing speaks against it."""
        if self.held_back > THROTTLED_LIMIT:
            return (
                f"the machine is busy: the CPU limit of this container held us back for {100 * self.held_back:.0f} % of the "
                "time, as something else in it used processors, too"
            )
        if self.cores <= OTHERS_LIMIT + self.spare:
            return None
        names = ", ".join(f"{name} {cores:.1f}" for name, cores in self.busiest)
        return (
            f"the machine is busy: other processes used {self.cores:.1f} of the cores that we may use while latency was "
            f"measured ({names or 'none of them visible from here'})"
        )

    def __enter__(self) -> "OtherLoad":
        self._start = read()
        return self

    def __exit__(self, *exception: object) -> None:
        end, start = read(), self._start
        wall = max(end.wall - start.wall, 1e-9)
        self.cores = max(0.0, (end.busy - start.busy - end.own + start.own) / wall)
        self.held_back = (end.throttled - start.throttled) / wall
        used = [
            (name, (seconds - start.others.get(number, (name, 0.0))[1]) / wall)
            for number, (name, seconds) in end.others.items()
        ]
        busiest = sorted(used, key=lambda each: -each[1])[:NAMED]
        self.busiest = [(name, cores) for name, cores in busiest if cores > WORTH_NAMING]


def read() -> Reading:
    """Where all counters stand."""
    own = psutil.Process().cpu_times()
    return Reading(time.monotonic(), _busy(), own.user + own.system, throttled(), dict(_others()))


def _busy() -> float:
    """Seconds for which the processors that we may use were not idle."""
    each = psutil.cpu_times(percpu=True)
    ours = [each[number] for number in affinity() if number < len(each)] or each
    return math.fsum(_not_idle(times) for times in ours)


def _not_idle(times: Sequence[float]) -> float:
    idle = sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "steal"))
    guest = sum(getattr(times, name, 0.0) for name in ("guest", "guest_nice"))  # counted in user time already
    return math.fsum(times) - idle - guest


def _others() -> Iterator[tuple[int, tuple[str, float]]]:
    """The name of every other process, and the seconds of processor that it has used, by its number."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone, or not ours to look at
            if process.pid != os.getpid():
                times = process.cpu_times()
                yield process.pid, (process.name(), times.user + times.system)
