"""The device that engines run on, described."""

import psutil

from prune2deploy.errors import InputError
from prune2deploy.runtimes.base import DeviceInfo
from prune2deploy.runtimes.processor_kind import cpu_name, instructions
from prune2deploy.runtimes.processors import usable_cores


def cpu_device() -> DeviceInfo:
    """This machine's processor."""
    return DeviceInfo(
        kind="cpu", name=cpu_name(), cores=usable_cores(), memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        instructions=instructions(),
    )


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
