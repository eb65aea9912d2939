"""Finished timings are found again by the same measurement, and by no other."""

import json
import os
import time

import pytest

from prune2deploy.config import Target, WorkloadPoint
from prune2deploy.errors import ContradictionError, UnstableMeasurementError
from prune2deploy.profiling import kept as module
from prune2deploy.profiling.kept import Kept, circumstances
from prune2deploy.progress import Progress
from prune2deploy.runtimes.measure import Timing
from prune2deploy.runtimes.ort import OnnxRuntime

POINT = WorkloadPoint(batch=2, seq_len=8)
TIMINGS = {
    "0+0": Timing(0.7, 0.01, 0.8, 0.9, 120, 0.1234567890123456, 1e-3, 0.02),
    "4+64": Timing(5.7, 0.02, 5.8, 5.9, 120, 1.0, 2e-3, 0.03),
}


class Measuring:
    """What was measured: how often."""

    def __init__(self, timings=TIMINGS):
        self.times, self.found = 0, timings

    def __call__(self):
        self.times += 1
        return self.found


def kept(directory, circumstances="this machine"):
    return Kept(directory, circumstances, Progress())


def asked(store, measure, what="stacks", engines=tuple(TIMINGS), point=POINT, rounds=40):
    return store.timings(what, engines, point, rounds, measure)


@pytest.fixture
def finished(tmp_path):
    """A folder with one measurement, which another process has made."""
    assert asked(kept(tmp_path), Measuring()) == TIMINGS
    return tmp_path


def test_the_same_measurement_is_not_made_again(finished):
    measure = Measuring()
    assert asked(kept(finished), measure) == TIMINGS, "to the last digit"
    heavier = POINT.model_copy(update={"weight": 9.0})
    assert asked(kept(finished), measure, engines=[*TIMINGS][::-1], point=heavier) == TIMINGS
    assert measure.times == 0


OTHERS = {
    "what": {"what": "whole models"},
    "batch": {"point": WorkloadPoint(batch=1, seq_len=8)},
    "length": {"point": WorkloadPoint(batch=2, seq_len=16)},
    "rounds": {"rounds": 12},
    "fewer engines": {"engines": ["0+0"]},
    "another engine": {"engines": ["0+0", "4+32"]},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_measurement_is_made(other, finished):
    made = dict.fromkeys(other.get("engines", TIMINGS), TIMINGS["0+0"])
    measure = Measuring(made)
    assert asked(kept(finished), measure, **other) == made
    assert measure.times == 1
    assert asked(kept(finished), measure) == TIMINGS, "and takes nothing from the first"


def test_other_circumstances_are_another_measurement(finished):
    measure = Measuring()
    asked(kept(finished, "another machine"), measure)
    assert measure.times == 1


def changed(path, **changes):
    values = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        where = values["timings"]["0+0"] if key in values["timings"]["0+0"] else values
        where[key] = value
    path.write_text(json.dumps(values), encoding="utf-8")


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "empty": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "not a number": lambda path: path.write_text(path.read_text().replace("0.7", "NaN", 1)),
    "no time at all": lambda path: changed(path, median_ms=0.0),
    "less than nothing": lambda path: changed(path, standard_error_ms=-1.0),
    "a word": lambda path: changed(path, ratio="fast"),
    "nested deeply": lambda path: path.write_text("[" * 100_000),
    "more keys": lambda path: changed(path, surprise=1),
    "of the future": lambda path: changed(path, schema_version=2),
    "of something else": lambda path: changed(path, of="[]"),
    "no engines": lambda path: changed(path, timings={}),
    "old": lambda path: os.utime(path, (time.time() - module.OLDEST - 60,) * 2),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_or_strange_is_measured_again(damage, finished):
    [path] = finished.iterdir()
    damage(path)
    measure = Measuring()
    assert asked(kept(finished), measure) == TIMINGS
    assert measure.times == 1


def test_disturbed_measurement_leaves_the_others(finished):
    def disturbed():
        raise UnstableMeasurementError("the machine is busy")

    with pytest.raises(UnstableMeasurementError), kept(finished) as store:
        asked(store, disturbed, rounds=12)
    assert len(list(finished.iterdir())) == 1


def test_contradiction_leaves_nothing(finished):
    with pytest.raises(ContradictionError), kept(finished):
        raise ContradictionError("the table contradicts itself")
    measure = Measuring()
    asked(kept(finished), measure)
    assert measure.times == 1


def test_circumstances_are_runtime_device_settings_workload_model_and_versions(monkeypatch):
    runtime, target, workload = OnnxRuntime(Target(threads=1)), Target(threads=1), [POINT]
    first = circumstances(runtime, target, workload, "a" * 64)
    heavier = POINT.model_copy(update={"weight": 3.0})
    assert circumstances(OnnxRuntime(Target(threads=1)), target, [heavier], "a" * 64) == first
    device, described = runtime.device(), runtime.describe()
    others = [
        circumstances(OnnxRuntime(Target(threads=2)), Target(threads=2), workload, "a" * 64),
        circumstances(runtime, Target(threads=1, triton="26.07"), workload, "a" * 64),
        circumstances(runtime, target, [POINT, WorkloadPoint()], "a" * 64),
        circumstances(runtime, target, workload, "b" * 64),
    ]
    changes = {
        "describe": [{"version": "0.0.1"}, {"affinity": [77]}, {"settings": {}}, {"provider": "another"}],
        "device": [{"name": "another"}, {"cores": 77}, {"instructions": ["none"]}],
    }
    for name, each in changes.items():
        for change in each:
            found = {"describe": described, "device": device}[name].model_copy(update=change)
            with monkeypatch.context() as patch:
                patch.setattr(OnnxRuntime, name, lambda self, found=found: found)
                others.append(circumstances(runtime, target, workload, "a" * 64))
    monkeypatch.setattr(module, "versions", lambda: {"torch": "0.1"})
    others.append(circumstances(runtime, target, workload, "a" * 64))
    assert len({first, *others}) == 1 + len(others)


def test_timing_and_what_is_kept_of_it_have_the_same_parts():
    assert set(module.KeptTiming.model_fields) == set(Timing.__dataclass_fields__)
