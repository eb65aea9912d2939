"""Timing several engines against each other on a machine whose speed drifts.

Engines are visited in rounds, in random order; each visit warms the caches with one run and times a short burst. A
latency is the median over rounds of (burst median / the reference's burst median of the same round), times the
reference's median: what slows the whole machine for a while cancels out.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from prune2deploy.errors import UnstableMeasurementError
from prune2deploy.progress import Progress
from prune2deploy.runtimes.base import TimedRun, Watch
from prune2deploy.runtimes.quiet import Patience

BURST = 3
BLOCK = 10  # rounds; the reference's medians over the last three blocks must agree ...
AGREEMENT = 0.10  # ... within this share, or measuring goes on ...
PATIENCE = 4  # ... for up to this many times the rounds asked for


@dataclass(frozen=True)
class Timing:
    """Latency of one engine. `samples_ms`: every timed run; `rounds`: burst medians relative to the reference's."""

    median_ms: float
    spread: float  # interquartile range of the rounds, relative to their median
    p90_ms: float
    p95_ms: float
    n: int
    ratio: float  # to the reference, of the same rounds
    standard_error_ms: float
    own_spread: float  # interquartile range of the rounds' milliseconds, relative to their median: the machine's drift


def interleaved(
    runs: Mapping[str, TimedRun], reference: str, rounds: int, progress: Progress, description: str, seed: int = 0,
    watch: Watch | None = None,
) -> dict[str, Timing]:
    """Time `runs` (each returns the milliseconds of one run) against runs[reference].

    Goes on after `rounds` rounds until the reference's latency has settled. What was timed is thrown away when it does not,
    or when `watch` (nothing where it is None) saw something else disturb the device: it is timed again as long as there is
    patience (`quiet`), and then UnstableMeasurementError is raised.
    """
    patience = Patience(progress)
    while True:
        try:
            return _undisturbed(runs, reference, rounds, progress, description, seed, watch)
        except UnstableMeasurementError as error:
            patience.wait(error, watch)


def _undisturbed(
    runs: Mapping[str, TimedRun], reference: str, rounds: int, progress: Progress, description: str, seed: int,
    watch: Watch | None,
) -> dict[str, Timing]:
    """As `interleaved`, once; raises UnstableMeasurementError."""
    rng = np.random.default_rng(seed)
    names = list(runs)
    samples: dict[str, list[list[float]]] = {name: [] for name in names}
    with watch or nullcontext(), progress.track(description, rounds) as advance:
        for timed in runs.values():
            timed()
        while len(samples[reference]) < rounds or not _settled(samples[reference], rounds):
            for name in rng.permutation(names):
                timed = runs[str(name)]
                timed()
                samples[str(name)].append([timed() for _ in range(BURST)])
            if len(samples[reference]) <= rounds:  # beyond, it waits for the machine to settle
                advance()
    if watch and watch.problem:
        raise UnstableMeasurementError(f"{watch.problem}; run this again when nothing disturbs it (--wait 30 waits)")
    return {name: _timing(np.asarray(samples[name]), np.asarray(samples[reference])) for name in names}


def _settled(reference: list[list[float]], rounds: int) -> bool:
    """Whether the last blocks agree; raises UnstableMeasurementError when patience is over."""
    if len(reference) < 3 * BLOCK:
        return True  # too short a look to tell
    recent = np.median(np.asarray(reference[-3 * BLOCK :]), axis=1).reshape(3, BLOCK)
    low, high = np.percentile(np.median(recent, axis=1), [0, 100])
    if high <= low * (1 + AGREEMENT):
        return True
    if len(reference) >= PATIENCE * rounds:
        raise UnstableMeasurementError(
            f"the machine's speed is unstable: the same engine took {low:.3g} ms and then {high:.3g} ms; "
            "fix the clock, or run this again when the machine is quiet"
        )
    return False


def _timing(samples: np.ndarray, reference: np.ndarray) -> Timing:
    """`samples` and `reference`: [rounds, BURST] milliseconds."""
    relative = np.median(samples, axis=1) / np.median(reference, axis=1)
    ratio = float(np.median(relative))
    settled_ms = float(np.median(reference[-3 * BLOCK :]))
    spread = _spread(relative)
    # of a median of nearly normal samples: 1.2533 sigma / sqrt(n), with sigma = IQR / 1.349
    error = 1.2533 * spread / 1.349 / np.sqrt(len(relative)) * ratio * settled_ms
    p90, p95 = np.percentile(samples, [90, 95])
    own = _spread(np.median(samples, axis=1))
    return Timing(ratio * settled_ms, spread, float(p90), float(p95), samples.size, ratio, float(error), own)


def _spread(values: np.ndarray) -> float:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float((high - low) / middle)
