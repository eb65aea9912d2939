"""Load on a running server: latency and throughput of real samples, with every answer checked."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prune2deploy.errors import InputError, StoppedError
from prune2deploy.files import Record
from prune2deploy.progress import Progress
from prune2deploy.repository.manifest import PartManifest, read_manifest, read_sealed
from prune2deploy.repository.references import chosen, read_references
from prune2deploy.repository.triton import CONFIG_FILE, parse_config
from prune2deploy.repository.versions import located
from prune2deploy.serving.client import Client, strings
from prune2deploy.tasks.base import Arrays

WARM_UP = 1.0  # seconds
OPEN_LOOP_WORKERS = 64  # requests that may be under way at once when they arrive at a rate of their own
LEAST = {50: 1, 90: 10, 95: 20, 99: 1000}  # requests; of fewer, that percentile is an anecdote
LATE = 0.25  # seconds after the end in which what was due before it is still sent
AFTER_FAILURE = 0.05  # seconds until a client whose request failed asks again


class BenchResult(Record):
    """What a server did under load. Latencies in milliseconds, of answered requests; in open loop from when they were due.

    `wrong`: answers further than `tolerance` from the package's reference outputs. `unsent`: requests that were due while
    all connections waited for answers. `executions`: of the model proper; None where a version came or went meanwhile.
    `versions`: those of it that were loaded at the end; `newest`: the package's.
    """

    url: str
    model: str
    concurrency: int
    rate: float | None
    seconds: float
    requests: int
    samples: int
    failed: int
    wrong: int
    unsent: int
    errors: dict[str, int]
    requests_per_second: float
    samples_per_second: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    largest_difference: float
    tolerance: float
    executions: int | None
    executed_samples: int | None
    versions: list[str]
    newest: str

    @property
    def passed(self) -> bool:
        """Whether there were answers, all of them right, to all that was asked."""
        return self.requests > 0 and not self.failed and not self.wrong and not self.unsent

    def lines(self) -> list[str]:
        """For a person."""
        load = f"{self.rate:g} requests/s" if self.rate is not None else f"{self.concurrency} clients"
        verdict = "passed" if self.passed else "FAILED"
        spans = {"p50": self.p50_ms, "p90": self.p90_ms, "p95": self.p95_ms, "p99": self.p99_ms}
        shown = ", ".join(f"{name} {value:.1f}" for name, value in spans.items() if value is not None)
        batches = "not known: a version came or went, or the server is gone"
        if self.executions is not None:
            batches = f"{self.executed_samples} samples in {self.executions} executions"
        lines = [
            f"{verdict}  {self.requests} answers in {self.seconds:.1f} s, {self.failed} failed, {self.wrong} wrong "
            f"(off by at most {self.largest_difference:.2g}, tolerance {self.tolerance:.2g})",
            *(f"        {count} × {error}" for error, count in self.errors.items()),
            f"{load}: {self.samples_per_second:.1f} samples/s, milliseconds: {shown or 'none'}",
            f"batches: {batches}",
        ]
        if self.unsent:
            lines.insert(1, f"        the rate was not met: {self.unsent} requests were due and never sent")
        if self.versions and self.newest not in self.versions:
            lines.insert(1, f"        the server has version {', '.join(self.versions)}, this repository {self.newest}")
        return lines


@dataclass(frozen=True)
class Request:
    """Inputs of one request and what must come back, by name.

    `positions`: see References.
    """

    inputs: Arrays
    wanted: Arrays
    positions: Arrays


@dataclass
class Tally:
    """What one worker saw. `spans`: seconds of each answered request."""

    spans: list[float] = field(default_factory=list)
    samples: int = 0
    unsent: int = 0
    wrong: int = 0
    largest: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    def note(self, request: Request, given: Arrays, tolerance: float) -> None:
        """Compare an answer, its outputs by name, with what it must be."""
        self.samples += len(next(iter(request.wanted.values())))
        answered = {name: output for name, output in given.items() if name in request.wanted}
        try:
            at_positions = chosen(answered, request.positions)
        except (IndexError, ValueError):  # fewer positions, or fewer samples, than were sent
            self.wrong += 1
            return
        for name, wanted in request.wanted.items():
            output = at_positions.get(name)
            if output is None or output.shape != wanted.shape:
                self.wrong += 1
                return
            difference = float(np.abs(output - wanted).max())
            self.largest = max(self.largest, difference)
            if not difference <= tolerance:  # NaN is wrong, too
                self.wrong += 1
                return


def bench(
    url: str, model: str, repository: Path, concurrency: int | None = None, rate: float | None = None,
    seconds: float = 10.0, progress: Progress | None = None, seed: int = 0,
) -> tuple[BenchResult, list[float]]:
    """Send the samples that travel with the package of `model` in `repository` to the server at `url`, for `seconds`.

    `concurrency` clients each send the next request when the last is answered (8 by default); or else, at `rate`, requests
    arrive in a Poisson process whatever the server does. Returns the result and the milliseconds of each request; raises
    InputError where the package or the server is not there.
    """
    if concurrency is not None and rate is not None:
        raise InputError("give one of --concurrency and --rate")
    if (concurrency is not None and concurrency < 1) or (rate is not None and not 0 < rate < float("inf")):
        raise InputError("--concurrency is 1 or more, --rate above 0")
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds:g}: give a time above 0")
    progress = progress or Progress()
    package, requests, tolerance = requests_for(repository / model)
    name, newest = package.parent.name, package.name
    workers = (concurrency or 8) if rate is None else OPEN_LOOP_WORKERS
    with Client(url) as client:
        if not client.ready(model):
            raise InputError(f"{url}: no answer for {model!r}: is the server running, and the model loaded?")
        drive(url, model, requests, tolerance, min(workers, 4), _no_dues, WARM_UP)
        before = client.statistics(name)
        with progress.track("under load", 1) as advance:
            start = time.perf_counter()
            due = _no_dues if rate is None else poisson(rate, seed)
            tallies = drive(url, model, requests, tolerance, workers, due, seconds)
            wall = time.perf_counter() - start
            advance()
        after = statistics_of(client, name)
    same = after.keys() == before.keys()
    samples, executions = (sum(after[key][of] - before[key][of] for key in after) if same else None for of in (0, 1))
    return BenchResult(
        url=url, model=model, concurrency=workers, rate=rate, seconds=round(wall, 3), tolerance=tolerance,
        executed_samples=samples, executions=executions, versions=sorted(after), newest=newest, **summed(tallies, wall),
    ), [1e3 * span for tally in tallies for span in tally.spans]  # fmt: skip


def statistics_of(client: Client, model: str) -> dict[str, tuple[int, int]]:
    """See Client.statistics; empty where the server is gone."""
    try:
        return client.statistics(model)
    except InputError:
        return {}


def summed(tallies: list[Tally], wall: float) -> dict[str, Any]:
    """What all workers saw in `wall` seconds, as fields of BenchResult."""
    spans = np.array([1e3 * span for tally in tallies for span in tally.spans])
    errors = sum((tally.errors for tally in tallies), Counter())
    samples = sum(tally.samples for tally in tallies)
    return {
        "requests": len(spans), "samples": samples, "failed": sum(errors.values()), "errors": dict(errors),
        "wrong": sum(tally.wrong for tally in tallies), "unsent": sum(tally.unsent for tally in tallies),
        "largest_difference": max(tally.largest for tally in tallies),
        "requests_per_second": len(spans) / wall, "samples_per_second": samples / wall,
        "mean_ms": float(spans.mean()) if len(spans) else None,
        **{f"p{q}_ms": float(np.percentile(spans, q)) if len(spans) >= count else None for q, count in LEAST.items()},
    }  # fmt: skip


def requests_for(entry: Path) -> tuple[Path, list[Request], float]:
    """The version of the model proper in `entry` or behind it, requests with answers, and how far those may be off."""
    entry, version = located(entry)
    sealed = read_sealed(entry / version)
    raw = isinstance(sealed, PartManifest)
    if isinstance(sealed, PartManifest):
        if sealed.role != "ensemble":
            raise InputError(f"{entry.name} is the {sealed.role} step; name the ensemble, or the model {sealed.model!r}")
        called = served_names(entry, sealed.model)
        entry, version = located(entry.parent / sealed.model)
    manifest = read_manifest(entry / version)
    references = read_references(entry / version, len(manifest.workload))
    requests = []
    if raw:
        for row in range(len(next(iter(references.outputs.values())))):
            inputs = {name: strings([column[row]]) for name, column in references.raw.items()}
            wanted, positions = (
                {called[name]: array[row][None] for name, array in arrays.items()}
                for arrays in (references.outputs, references.positions)
            )
            requests.append(Request(inputs, wanted, positions))
    else:
        points = zip(
            references.points(manifest.workload), references.workload_outputs, references.workload_positions, strict=True
        )
        for (_, inputs), outputs, places in points:
            rows = len(next(iter(inputs.values())))
            wanted, positions = (
                {name: np.resize(array, (rows, *array.shape[1:])) for name, array in arrays.items()}
                for arrays in (outputs, places)
            )
            requests.append(Request(inputs, wanted, positions))
    return entry / version, requests, manifest.tolerance


def served_names(ensemble: Path, model: str) -> dict[str, str]:
    """What `ensemble` calls the outputs of `model`, a step of it."""
    steps = parse_config(ensemble / CONFIG_FILE).ensemble_scheduling.step
    return next(dict(step.output_map) for step in steps if step.model_name == model)


def poisson(rate: float, seed: int) -> Callable[[], float]:
    """Seconds after the start at which the next request is due: a Poisson process of `rate` a second."""
    draws = np.random.default_rng(seed)
    lock, now = threading.Lock(), 0.0

    def due() -> float:
        nonlocal now
        with lock:
            now += float(draws.exponential(1 / rate))
            return now

    return due


def _no_dues() -> float | None:
    return None


def drive(
    url: str, model: str, requests: list[Request], tolerance: float, workers: int, due: Callable[[], float | None],
    seconds: float,
) -> list[Tally]:
    """Let `workers` threads, each with a connection of its own, send `requests` in turn for `seconds`."""
    tallies = [Tally() for _ in range(workers)]
    turn, stop, gate = itertools.count(), threading.Event(), threading.Barrier(workers)
    started: list[float] = []

    def work(tally: Tally) -> None:
        with Client(url) as client:
            if gate.wait() == 0:
                started.append(time.perf_counter())
            gate.wait()
            start = started[0]
            while not stop.is_set():
                planned = due()
                begin = time.perf_counter() - start if planned is None else planned
                if begin >= seconds:
                    return
                time.sleep(max(0.0, begin - (time.perf_counter() - start)))
                if time.perf_counter() - start > seconds + LATE:
                    tally.unsent += 1
                    continue
                request = requests[next(turn) % len(requests)]
                try:
                    answer = client.infer(model, request.inputs)
                except InputError as error:
                    tally.errors[str(error)[:200]] += 1
                    time.sleep(AFTER_FAILURE)
                    continue
                tally.spans.append(time.perf_counter() - start - begin)
                tally.note(request, answer.outputs, tolerance)

    threads = [threading.Thread(target=work, args=(tally,), daemon=True) for tally in tallies]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        raise StoppedError("stopped; nothing was written") from None
    finally:
        stop.set()
    return tallies
