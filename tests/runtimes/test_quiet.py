"""What a measurement does on a machine that something disturbs, with patience and without; the clock is pretended."""

from contextlib import contextmanager

import pytest

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import UnstableMeasurementError, WaitedInVainError
from prune2deploy.progress import Progress
from prune2deploy.runtimes import quiet, workload
from prune2deploy.runtimes.measure import interleaved
from prune2deploy.runtimes.quiet import LOOK, patient, waiting

BUSY = "the machine is busy: other processes used {:.1f} of the cores that we may use ({} 1.9)"


class Time:
    """Seconds that pass only where somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Listener(Progress):
    def __init__(self):
        self.notes, self.left = [], []

    @contextmanager
    def countdown(self, description, seconds):
        assert description == "waiting for quiet"
        yield self.left.append

    def note(self, message):
        self.notes.append(message)


class Disturbed:
    """A watch of a machine that is busy until `until`; `who`: what it names, look by look, the last from then on."""

    def __init__(self, clock, until, who=("stress",)):
        self.clock, self.until, self.who, self.looks = clock, until, list(who), 0

    def __enter__(self):
        self.started = self.clock.now

    def __exit__(self, *exception):
        self.looks += 1

    @property
    def problem(self):
        if self.started >= self.until:
            return None
        return BUSY.format(1 + self.looks / 10, self.who[min(self.looks, len(self.who)) - 1])


@pytest.fixture
def clock(monkeypatch):
    found = Time()
    monkeypatch.setattr(quiet, "time", found)
    monkeypatch.setattr(workload, "time", found)
    return found


def measured(watch, progress, minutes, passes=0.0):
    """What `interleaved` says of an engine that takes 3 ms, and `passes` seconds of our clock a run."""

    def run():
        watch.clock.now += passes
        return 3.0

    with waiting(minutes):
        return interleaved({"dense": run}, "dense", 5, progress, "timing", watch=watch)["dense"].median_ms


def test_without_patience_it_fails_at_once(clock):
    progress = Listener()
    with pytest.raises(UnstableMeasurementError, match=r"\(stress 1.9\); run this again when .* \(--wait 30 waits\)"):
        measured(Disturbed(clock, clock.now + 1), progress, 0)
    assert (clock.now, progress.notes, progress.left) == (1000, [], [])


def test_waits_for_quiet_and_goes_on(clock):
    progress, watch = Listener(), Disturbed(clock, clock.now + 47)
    assert measured(watch, progress, 2) == pytest.approx(3.0)
    assert progress.notes == [BUSY.format(1.1, "stress") + "; waiting for quiet, 2 minutes at most"]
    assert progress.left == list(range(120, 120 - len(progress.left), -1)), "second by second"
    assert 47 <= clock.now - 1000 <= 47 + 2 * LOOK


def test_limit_ends_in_the_same_line(clock):
    progress = Listener()
    said = r"the machine is busy: .*, and 2 minutes of waiting were not enough; run this again"
    with pytest.raises(WaitedInVainError, match=said) as caught:
        measured(Disturbed(clock, float("inf")), progress, 2)
    assert caught.value.exit_code == 1
    assert 120 <= clock.now - 1000 <= 120 + LOOK


def test_limit_counts_from_the_first_disturbance_and_all_tries_together(clock):
    """Quiet while we wait and disturbed whenever we measure: that must end."""

    class WhenMeasured(Disturbed):
        @property
        def problem(self):
            return None if self.clock.now - self.started == LOOK else BUSY.format(1, "stress")

    with pytest.raises(WaitedInVainError):
        measured(WhenMeasured(clock, float("inf")), Listener(), 2, passes=1)
    assert 120 <= clock.now - 1000 <= 180


def test_those_that_disturb_are_named_anew_but_not_each_second(clock):
    progress = Listener()
    who = ["cc1", "ld", "cc1", "ld", "cc1", "as", "ld", "cc1", "ld", "as", "cc1", "ld", "as", "ld", "backup"]
    measured(Disturbed(clock, clock.now + 150, who), progress, 5)
    assert "(cc1 1.9); waiting for quiet" in progress.notes[0]
    assert "(backup 1.9); waiting for quiet" in progress.notes[-1]
    assert len(progress.notes) <= 3


def test_ctrl_c_ends_the_waiting(clock, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured(Disturbed(clock, float("inf")), Listener(), 2)


class Engine:
    def __init__(self, watch):
        self.watch = lambda: watch

    def timed(self, inputs):
        return lambda: 3.0


def time_workload(watch, progress, minutes):
    with waiting(minutes):
        return workload.time_workload({"dense": Engine(watch)}, [(WorkloadPoint(), {})], progress, "measuring", 5)


def test_whole_models_wait_as_well_and_only_once(clock):
    assert time_workload(Disturbed(clock, clock.now + 47), Listener(), 2)["dense"].ms == pytest.approx(3.0)
    with pytest.raises(WaitedInVainError):
        time_workload(Disturbed(clock, float("inf")), Listener(), 2)
    assert clock.now - 1000 < 47 + 120 + 4 * LOOK, "not once more for each pause"


def test_patience_is_the_project_s(bert_dir, text_data, make_project, tmp_path):
    project = make_project(bert_dir, text_data, "text-classification", tmp_path, measuring={"wait_minutes": 7})
    command = patient(lambda *given: quiet.Patience(Progress()).minutes)
    assert command(project) == 7
    assert command("no project") == 0
    with waiting(3):
        assert command("no project") == 3
        assert command(project) == 7
