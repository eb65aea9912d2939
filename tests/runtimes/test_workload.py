import numpy as np
import pytest

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import UnstableMeasurementError
from prune2deploy.progress import Progress
from prune2deploy.runtimes import workload

ROUNDS = 20
TRUE_MS = {"dense": 10.0, "pruned": 4.0}


class Telling(Progress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


class PretendedEngine:
    """Takes `ms`; half to three times as long while `noisy()`."""

    def __init__(self, ms, noisy):
        self.ms, self.noisy = ms, noisy

    def watch(self):
        return None  # nobody else is on this machine

    def timed(self, inputs):
        rng = np.random.default_rng(0)
        return lambda: self.ms * (rng.uniform(0.5, 3) if self.noisy() else 1)


@pytest.fixture
def slept(monkeypatch):
    """The pauses that were made, without making them."""
    pauses = []
    monkeypatch.setattr(workload.time, "sleep", pauses.append)
    return pauses


def timed(noisy):
    noises = {"dense": lambda: False, "pruned": noisy}
    engines = {name: PretendedEngine(ms, noises[name]) for name, ms in TRUE_MS.items()}
    progress = Telling()
    points = [(WorkloadPoint(batch=1, seq_len=8), {})]
    return workload.time_workload(engines, points, progress, "measuring", ROUNDS), progress.notes


def test_what_a_quiet_machine_says_is_taken_at_once(slept):
    found, notes = timed(lambda: False)
    assert {name: timing.ms for name, timing in found.items()} == pytest.approx(TRUE_MS)
    assert slept == notes == []


def test_what_was_measured_while_noisy_is_thrown_away_and_measured_again(slept):
    found, notes = timed(lambda: len(slept) < 2)
    assert {name: timing.ms for name, timing in found.items()} == pytest.approx(TRUE_MS)
    assert slept == [5, 15]
    assert all("too noisy: measurements of the pruned engine" in note for note in notes)
    assert [note.partition("; ")[2] for note in notes] == ["measuring again in 5 s", "measuring again in 15 s"]


def test_a_machine_that_stays_noisy_is_refused(slept):
    with pytest.raises(UnstableMeasurementError, match=r"of the pruned engine spread by \d+ %; run this again when"):
        timed(lambda: True)
    assert slept == list(workload.PAUSES)
