"""The device that engines run on, described."""

import platform
from pathlib import Path

import psutil

from prune2deploy.errors import InputError
from prune2deploy.runtimes.base import DeviceInfo
from prune2deploy.runtimes.processors import usable_cores


def cpu_device() -> DeviceInfo:
    """This machine's processor."""
    return DeviceInfo(
        kind="cpu", name=cpu_name(), cores=usable_cores(), memory_gb=round(psutil.virtual_memory().total / 2**30, 1)
    )


def cpu_name() -> str:
    """The processor's own name for itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cuda_device() -> DeviceInfo:
    """The first CUDA device; raises InputError where there is none."""
    import torch

    from prune2deploy.runtimes.nvml import driver_version

    if not torch.cuda.is_available():
        raise InputError("no NVIDIA GPU that CUDA can use was found; use --cpu")
    properties = torch.cuda.get_device_properties(0)
    return DeviceInfo(
        kind="gpu", name=properties.name, cores=properties.multi_processor_count,
        memory_gb=round(properties.total_memory / 2**30, 1), compute_capability=f"{properties.major}.{properties.minor}",
        cuda=torch.version.cuda, driver=driver_version(),
    )  # fmt: skip
