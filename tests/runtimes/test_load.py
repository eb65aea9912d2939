import subprocess
import sys

import pytest

from prune2deploy.runtimes import load
from prune2deploy.runtimes.load import OTHERS_LIMIT, OtherLoad, Reading


def between(monkeypatch, threads, cores, start, end):
    """What is made of two readings by a process that may use `cores`."""
    monkeypatch.setattr(load, "affinity", lambda: list(range(cores)))
    monkeypatch.setattr(load, "physical_cores", len)
    readings = iter([start, end])
    monkeypatch.setattr(load, "read", lambda: next(readings))
    with OtherLoad(threads) as other:
        pass
    return other


START = Reading(wall=100.0, busy=50.0, own=5.0, throttled=1.0, others={7: ("old", 30.0)})


def after(busy, own, throttled=0.0, others=None):
    """Ten seconds later."""
    return Reading(110.0, 50.0 + busy, 5.0 + own, 1.0 + throttled, others or {7: ("old", 30.0)})


@pytest.mark.parametrize(("busy", "own", "cores"), [(14, 4, 1.0), (4, 4, 0.0), (3.9, 4, 0.0), (30, 10, 2.0)])
def test_others_are_what_is_busy_without_us(busy, own, cores, monkeypatch):
    assert between(monkeypatch, 2, 2, START, after(busy, own)).cores == pytest.approx(cores)


@pytest.mark.parametrize(
    ("threads", "cores", "used", "disturbed"),
    [
        (2, 2, OTHERS_LIMIT + 0.1, True), (2, 2, OTHERS_LIMIT - 0.1, False),
        (8, 64, 40.0, False), (8, 64, 57.0, True), (64, 64, 1.0, True), (1, 2, 1.2, False),
    ],
)  # fmt: skip
def test_only_what_takes_cores_that_we_need_disturbs(threads, cores, used, disturbed, monkeypatch):
    problem = between(monkeypatch, threads, cores, START, after(10 * used, 0)).problem
    assert (problem is not None) == disturbed


def test_message_names_the_busiest(monkeypatch):
    others = {7: ("old", 38.0), 8: ("new one", 12.0), 9: ("idle", 0.1), 10: ("third", 1.0), 11: ("fourth", 0.9)}
    problem = between(monkeypatch, 2, 2, START, after(22, 0, others=others)).problem
    assert "other processes used 2.2 of the cores that we may use" in problem
    assert "(new one 1.2, old 0.8, third 0.1)" in problem
    assert "none of them visible from here" in between(monkeypatch, 2, 2, START, after(22, 0)).problem


@pytest.mark.parametrize(("throttled", "disturbed"), [(0.05, False), (0.2, True)])
def test_being_held_back_by_a_limit_disturbs(throttled, disturbed, monkeypatch):
    problem = between(monkeypatch, 2, 2, START, after(20, 20, throttled)).problem
    assert (problem is not None) == disturbed
    assert not disturbed or "held us back for 2 % of the time" in problem


def test_a_busy_process_of_this_machine_is_seen_by_name():
    code = "import sys; print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            with OtherLoad(10_000) as other:
                sum(range(20_000_000))
        finally:
            process.kill()
    assert other.cores > 0.2
    assert other.busiest[0][1] > 0.2
