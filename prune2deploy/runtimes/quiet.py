"""Waiting until nothing disturbs the machine any more, for as long as the project's `measuring.wait_minutes` says.

How long is a property of the command that runs, and measurements lie deep inside of it, in loops that search for something
else: so it is kept beside the calls and not handed from one to the next.
"""

import functools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from prune2deploy.config import project_among
from prune2deploy.errors import UnstableMeasurementError, WaitedInVainError
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import Watch

P = ParamSpec("P")
R = TypeVar("R")
LOOK = 5  # seconds without a disturbance, after which the machine counts as quiet
NEWS = 60.0  # seconds at least between two lines that say what disturbs
_minutes: ContextVar[float] = ContextVar("wait_minutes", default=0.0)


@contextmanager
def waiting(minutes: float) -> Iterator[None]:
    """While open, every measurement that is disturbed waits up to so many minutes for quiet."""
    token = _minutes.set(minutes)
    try:
        yield
    finally:
        _minutes.reset(token)


def patient(command: Callable[P, R]) -> Callable[P, R]:
    """`command`, whose measurements wait as long as the project that it is given says."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        project = project_among((*args, *kwargs.values()))
        with waiting(project.measuring.wait_minutes if project else _minutes.get()):
            return command(*args, **kwargs)

    return call


class Patience:
    """That of one measurement: it ends some minutes after the measurement was first disturbed, however often it is tried."""

    def __init__(self, progress: Progress):
        self.progress, self.minutes = progress, _minutes.get()
        self.until: float | None = None

    def wait(self, error: UnstableMeasurementError, watch: Watch | None) -> None:
        """Return when `watch` sees nothing any more; raises `error` without patience, and WaitedInVainError at its end."""
        if not self.minutes or watch is None:
            raise error
        self.until = self.until or time.monotonic() + 60 * self.minutes
        problem, said = str(error).partition(";")[0], float("-inf")
        known = ""
        with self.progress.countdown("waiting for quiet", 60 * self.minutes) as tell:
            while (left := self.until - time.monotonic()) > 0:
                if _names(problem) != known and time.monotonic() >= said + NEWS:
                    self.progress.note(f"{problem}; waiting for quiet, {minutes_of(left / 60)} at most")
                    known, said = _names(problem), time.monotonic()
                with watch:
                    for second in range(LOOK):
                        tell(left - second)
                        time.sleep(1)
                if watch.problem is None:
                    return
                problem = watch.problem
        raise WaitedInVainError(
            f"{problem}, and {minutes_of(self.minutes)} of waiting were not enough; run this again when nothing disturbs it"
        )


def _names(problem: str) -> str:
    """What disturbs, without how much."""
    return re.sub(r"[\d.]+", "", problem)


def minutes_of(minutes: float) -> str:
    """`minutes` for people."""
    return f"{minutes:.3g} minute{'s'[: minutes != 1]}"
