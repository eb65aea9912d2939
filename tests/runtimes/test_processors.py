"""Control groups and topology, on made-up machines."""

import os

import pytest

from prune2deploy.runtimes import processors
from prune2deploy.runtimes.processors import affinity, cpu_limit, physical_cores, throttled, usable_cores


def write(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


V2 = {"proc/self/cgroup": "0::/user.slice/job\n"}
V1 = {"proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/\n"}
UNIFIED, SPLIT = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"
LIMITS = {
    "no control groups": ({}, None),
    "none set": ({**V2, f"{UNIFIED}/user.slice/job/cpu.max": "max 100000\n"}, None),
    "two of sixty-four": ({**V2, f"{UNIFIED}/user.slice/job/cpu.max": "200000 100000\n"}, 2.0),
    "set above": (
        {**V2, f"{UNIFIED}/user.slice/cpu.max": "150000 100000\n", f"{UNIFIED}/user.slice/job/cpu.max": "max 100000\n"}, 1.5
    ),
    "the lowest counts": (
        {**V2, f"{UNIFIED}/user.slice/cpu.max": "4000 1000", f"{UNIFIED}/user.slice/job/cpu.max": "50000 100000\n"}, 0.5
    ),
    "own group as root": ({"proc/self/cgroup": "0::/\n", f"{UNIFIED}/cpu.max": "300000 100000\n"}, 3.0),
    "version 1": (
        {**V1, f"{SPLIT}/docker/abc/cpu.cfs_quota_us": "400000", f"{SPLIT}/docker/abc/cpu.cfs_period_us": "100000"}, 4.0
    ),
    "version 1, own group as root": ({**V1, f"{SPLIT}/cpu.cfs_quota_us": "2000", f"{SPLIT}/cpu.cfs_period_us": "1000"}, 2.0),
    "version 1, none set": ({**V1, f"{SPLIT}/cpu.cfs_quota_us": "-1", f"{SPLIT}/cpu.cfs_period_us": "100000"}, None),
    "both versions": (
        {**V1, "sys/fs/cgroup/unified/cpu.max": "100000 100000", f"{SPLIT}/cpu.cfs_quota_us": "-1"}, 1.0
    ),
    "unreadable": ({**V2, f"{UNIFIED}/user.slice/job/cpu.max": "nonsense"}, None),
}  # fmt: skip


@pytest.mark.parametrize("which", LIMITS)
def test_limit_of_control_groups(which, tmp_path):
    files, expected = LIMITS[which]
    write(tmp_path, files)
    assert cpu_limit(tmp_path) == expected


def test_time_that_a_limit_held_us_back(tmp_path):
    write(tmp_path, {**V2, f"{UNIFIED}/user.slice/job/cpu.stat": "nr_periods 4\nthrottled_usec 2500000\n"})
    assert throttled(tmp_path) == 2.5
    write(tmp_path, {**V1, f"{SPLIT}/cpu.stat": "nr_throttled 3\nthrottled_time 1500000000\n"})
    assert throttled(tmp_path) == 1.5
    assert throttled(tmp_path / "nowhere") == 0.0


def topology(root, cores):
    """`cores`: (package, core) of each logical processor."""
    for number, (package, core) in enumerate(cores):
        place = f"sys/devices/system/cpu/cpu{number}/topology"
        write(root, {f"{place}/physical_package_id": f"{package}\n", f"{place}/core_id": f"{core}\n"})


def test_two_threads_of_a_core_are_one(tmp_path):
    topology(tmp_path, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (1, 1)])
    assert physical_cores(list(range(8)), tmp_path) == 4
    assert physical_cores([0, 4], tmp_path) == 1
    assert physical_cores([0, 2, 5], tmp_path) == 3


def test_machines_that_do_not_tell_their_topology(tmp_path, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    assert physical_cores([0, 1, 2], tmp_path) == 3
    assert physical_cores(list(range(16)), tmp_path) == 8
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    assert physical_cores(list(range(16)), tmp_path) == 16


@pytest.mark.parametrize(("cores", "limit", "usable"), [(64, 2.0, 2), (64, 2.9, 2), (2, 4.0, 2), (4, None, 4), (4, 0.5, 1)])
def test_no_more_threads_than_the_container_may_run(cores, limit, usable, monkeypatch):
    monkeypatch.setattr(processors, "physical_cores", lambda found: cores)
    monkeypatch.setattr(processors, "cpu_limit", lambda: limit)
    assert usable_cores() == usable


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_affinity_is_the_schedulers():
    assert affinity() == sorted(os.sched_getaffinity(0))
