"""The processors that this process may use: by affinity, and by the CPU limits of its control groups (containers)."""

import os
from pathlib import Path

ROOT = Path("/")


def affinity() -> list[int]:
    """The logical processors that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores(processors: list[int], root: Path = ROOT) -> int:
    """How many cores the logical `processors` are: two of one core share what a matrix product needs."""
    cores = set()
    for processor in processors:
        topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
        try:
            cores.add(tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id")))
        except OSError:
            return _physical_by_psutil(len(processors))
    return max(1, len(cores))


def _physical_by_psutil(processors: int) -> int:
    import psutil

    return max(1, min(psutil.cpu_count(logical=False) or processors, processors))


def usable_cores() -> int:
    """Physical cores that this process may keep busy: more threads than that slow a matrix product down."""
    cores, limit = physical_cores(affinity()), cpu_limit()
    return cores if limit is None else max(1, min(cores, int(limit)))


def cpu_limit(root: Path = ROOT) -> float | None:
    """The cores that control groups, of either version, let this process keep busy; None where there is no limit."""
    limits = [limit for folder in _groups(root) if (limit := _limit_of(folder)) is not None]
    return min(limits, default=None)


def throttled(root: Path = ROOT) -> float:
    """Seconds for which a limit has held this process's control groups back so far."""
    return max((_throttled_of(folder) for folder in _groups(root)), default=0.0)


def _groups(root: Path) -> list[Path]:
    """The folders of this process's control groups that can limit processors, each with those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if number == "0" and not controllers:
            base = base / "unified" if (base / "unified").is_dir() else base
        elif "cpu" in controllers.split(","):
            base = next((base / name for name in (controllers, "cpu") if (base / name).is_dir()), base / "cpu")
        else:
            continue
        inside = base / path.strip("/")
        # a container may see its own group as the root, under a path that only the host knows
        folders += [folder for folder in (inside, *inside.parents) if folder == base or base in folder.parents]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _limit_of(folder: Path) -> float | None:
    first, second = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
    numbers = _numbers(folder / "cpu.max") or _numbers(first) + _numbers(second)
    return numbers[0] / numbers[1] if len(numbers) == 2 and min(numbers) > 0 else None


def _numbers(file: Path) -> tuple[float, ...]:
    """The numbers in `file`; none where it is not there, or says that there is no limit."""
    try:
        return tuple(float(word) for word in file.read_text().split())
    except (OSError, ValueError):
        return ()


def _throttled_of(folder: Path) -> float:
    try:
        rows = dict(line.split()[:2] for line in (folder / "cpu.stat").read_text().splitlines() if " " in line)
    except OSError:
        return 0.0
    return float(rows.get("throttled_usec", 0)) / 1e6 + float(rows.get("throttled_time", 0)) / 1e9
