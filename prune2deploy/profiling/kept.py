"""Timings that a profile had finished when it was stopped or disturbed, kept beside its graphs until the table is written.

One file a measurement. Its name and content say what it was made of and under which circumstances; where anything differs,
or the file is damaged, the measurement is made again. What contradicts itself is not kept: it would do so again each time.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import ContradictionError, InputError
from prune2deploy.files import Record, read_record, write_record
from prune2deploy.progress import Progress
from prune2deploy.provenance import versions
from prune2deploy.runtimes.base import Runtime
from prune2deploy.runtimes.measure import Timing

OLDEST = 24 * 3600.0  # seconds: what nobody wrote down, such as a clock that was fixed, changes within days


class KeptTiming(Record):
    """A `Timing` as it is stored."""

    median_ms: float = Field(gt=0)
    spread: float = Field(ge=0)
    p90_ms: float = Field(gt=0)
    p95_ms: float = Field(gt=0)
    n: int = Field(ge=1)
    ratio: float = Field(gt=0)
    standard_error_ms: float = Field(ge=0)
    own_spread: float = Field(ge=0)


class Measurement(Record):
    """Engines that were timed against each other; `of`: what was timed, under which circumstances."""

    schema_version: int = Field(1, ge=1, le=1)
    of: str
    timings: dict[str, KeptTiming]


class Kept:
    """What is kept in one directory; as a context, it is emptied where the block finds a contradiction."""

    def __init__(self, directory: Path, circumstances: str, progress: Progress):
        """`circumstances`: everything that timings depend on beside the engines, the point and the rounds."""
        self.directory, self.circumstances, self.progress = directory, circumstances, progress

    def timings(
        self, what: str, engines: Sequence[str], point: WorkloadPoint, rounds: int, measure: Callable[[], dict[str, Timing]]
    ) -> dict[str, Timing]:
        """What was kept of this measurement, else what `measure` returns, which is kept from now on.

        Args:
            what: is measured; together with the circumstances it tells each of the engines from all others.
            engines: their names.
            point: the shape of the inputs; its weight does not matter.
            rounds: that were asked for.
            measure: makes the measurement; what it raises is passed on, and nothing is kept then.
        """
        of = json.dumps([self.circumstances, what, sorted(engines), point.batch, point.seq_len, rounds])
        path = self.directory / f"{hashlib.sha256(of.encode()).hexdigest()[:16]}.json"
        if (found := _read(path, of, engines)) is not None:
            self.progress.note(f"{what} at {point}: timed already, before this command was stopped or disturbed")
            return found
        timings = measure()
        stored = {name: KeptTiming(**asdict(timing)) for name, timing in timings.items()}
        write_record(path, Measurement(of=of, timings=stored))
        return timings

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        if kind is not None and issubclass(kind, ContradictionError):
            shutil.rmtree(self.directory, ignore_errors=True)


def _read(path: Path, of: str, engines: Sequence[str]) -> dict[str, Timing] | None:
    """What `path` holds of just this measurement; None where it holds anything else."""
    try:
        if not path.is_file() or abs(time.time() - path.stat().st_mtime) > OLDEST:
            return None
        found = read_record(path, Measurement, "measurement", "remove it")
    except (InputError, OSError):
        return None
    if found.of != of or set(found.timings) != set(engines):
        return None
    return {name: Timing(**timing.model_dump()) for name, timing in found.timings.items()}


def circumstances(runtime: Runtime, target: Record, workload: Sequence[Record], model: str) -> str:
    """What timings of a model's engines depend on. `model`: the hash of its files.

    The whole workload is among it, as engines may be built for all of its points.
    """
    return json.dumps(
        [
            runtime.device().model_dump(), runtime.describe().model_dump(), target.model_dump(),
            [point.model_dump(exclude={"weight"}) for point in workload], model, versions(),
        ],
        sort_keys=True,
    )  # fmt: skip
