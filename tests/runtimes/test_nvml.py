"""The watch over a GPU, with what the driver says replaced: the driver itself was asked on a GPU machine or not at all."""

import threading
import time

import pytest

from prune2deploy.errors import UnstableMeasurementError
from prune2deploy.progress import Progress
from prune2deploy.runtimes import nvml
from prune2deploy.runtimes.measure import interleaved
from prune2deploy.runtimes.nvml import GpuState, GpuWatch, driver_version


def state(**changes):
    values = {"clock_mhz": 1980, "memory_clock_mhz": 2619, "power_w": 350.0, "temperature_c": 50, "slowed_by": [],
              "other_processes": 0}  # fmt: skip
    return GpuState(**{**values, **changes})


@pytest.fixture
def says(monkeypatch):
    """What the driver says, look by look; the last for ever after."""
    states = [state()]
    monkeypatch.setattr(GpuWatch, "SECONDS", 0.001)
    monkeypatch.setattr(nvml, "gpu_state", lambda: states.pop(0) if len(states) > 1 else states[0])
    return states


def watched(looks=8):
    with GpuWatch() as watch:
        deadline = time.monotonic() + 5
        while len(watch.states) < looks and time.monotonic() < deadline:
            time.sleep(0.001)
    return watch


def test_a_gpu_of_our_own_at_full_speed_is_no_problem(says):
    watch = watched()
    assert watch.problem is None
    assert len(watch.states) >= 8
    assert threading.active_count() < 10


def test_anyone_else_on_the_gpu_is(says):
    says[:] = [state(), state(other_processes=2), state()]
    assert watched().problem == "the GPU is busy: 2 other processes on it"


def test_slowed_down_for_most_of_the_time_is(says):
    says[:] = [state(slowed_by=["power cap"], temperature_c=81, power_w=700.4)]
    assert watched().problem == "the GPU is slowed down by power cap (81 °C, 700 W)"


def test_slowed_down_for_a_moment_is_not(says):
    says[:] = [state(), state(slowed_by=["power cap"]), state()]
    assert watched().problem is None


def test_what_was_measured_on_a_busy_gpu_is_refused(says):
    says[:] = [state(other_processes=1)]
    with pytest.raises(UnstableMeasurementError, match="the GPU is busy: 1 other process on it"):
        interleaved({"a": lambda: 1.0}, "a", 3, Progress(), "looking", watch=GpuWatch())


def test_a_table_keeps_some_looks_from_first_to_last():
    watch = GpuWatch()
    watch.states = [state(clock_mhz=clock) for clock in range(101)]
    clocks = [each.clock_mhz for each in watch.some(5)]
    assert clocks == [0, 25, 50, 75, 100]
    watch.states = watch.states[:3]
    assert watch.some(5) == watch.states


def test_without_a_driver_its_version_is_unknown(monkeypatch):
    def no_driver():
        raise nvml.InputError("the NVIDIA driver does not answer")

    monkeypatch.setattr(nvml, "_device", no_driver)
    assert driver_version() is None
