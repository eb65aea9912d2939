"""What the driver knows of the GPU: clocks, power, heat, why it is slowed down, and who else is on it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from pydantic import Field

from prune2deploy.errors import InputError, MissingPackageError
from prune2deploy.files import Record

# what slows a GPU below what was asked of it, as nvidia-ml-py names it; saving power while idle is none of these
SLOWED = {
    "SwPowerCap": "power cap", "HwSlowdown": "hardware slowdown", "SwThermalSlowdown": "heat (software)",
    "HwThermalSlowdown": "heat (hardware)", "HwPowerBrakeSlowdown": "power brake", "SyncBoost": "sync boost",
}  # fmt: skip


class GpuState(Record):
    """The GPU that we measure on, at one moment."""

    clock_mhz: int
    memory_clock_mhz: int
    power_w: float
    temperature_c: int
    slowed_by: list[str]
    other_processes: int = Field(ge=0, description="with a CUDA context of their own, beside the one that measures")


def gpu_state() -> GpuState:
    """What NVML says now, while this process has a CUDA context; raises MissingPackageError and InputError."""
    with _device() as (nvml, handle):
        # process ids mean nothing where we run in a container: one of those that are listed is this one
        processes = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        return GpuState(
            clock_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            temperature_c=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            slowed_by=[says for name, says in SLOWED.items() if reasons & getattr(nvml, f"nvmlClocksThrottleReason{name}")],
            other_processes=max(0, processes - 1),
        )  # fmt: skip


class GpuWatch:
    """Looks at the GPU at the start, every second and at the end of a `with` block; `states`: what it saw."""

    SECONDS = 1.0

    def __enter__(self) -> "GpuWatch":
        self.states = [gpu_state()]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self.states.append(gpu_state())

    def _look(self) -> None:
        while not self._over.wait(self.SECONDS):
            self.states.append(gpu_state())

    def some(self, count: int = 20) -> list[GpuState]:
        """Up to `count` of `states`, evenly spread, the first and the last among them."""
        last = len(self.states) - 1
        return [self.states[round(index * last / (count - 1))] for index in range(count)] if last >= count else self.states

    @property
    def problem(self) -> str | None:
        """Why nothing that was measured meanwhile counts; None where nothing speaks against it."""
        others = max(state.other_processes for state in self.states)
        if others:
            return f"the GPU is busy: {others} other {'process' if others == 1 else 'processes'} on it"
        slowed = [state for state in self.states if state.slowed_by]
        if len(slowed) > len(self.states) / 2:
            reasons = sorted({reason for state in slowed for reason in state.slowed_by})
            last = slowed[-1]
            return f"the GPU is slowed down by {', '.join(reasons)} ({last.temperature_c} °C, {last.power_w:.0f} W)"
        return None


def driver_version() -> str | None:
    """The NVIDIA driver's version; None where NVML cannot be asked."""
    try:
        with _device() as (nvml, _):
            return str(nvml.nvmlSystemGetDriverVersion())
    except (InputError, MissingPackageError):
        return None


@contextmanager
def _device() -> Iterator[tuple[ModuleType, Any]]:
    """(pynvml, its handle of CUDA's first device, whatever CUDA_VISIBLE_DEVICES says)."""
    import torch

    try:
        import pynvml
    except ImportError:
        raise MissingPackageError("nvidia-ml-py", "gpu") from None
    try:
        pynvml.nvmlInit()
        try:
            uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
            yield pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise InputError(f"the NVIDIA driver does not answer: {error}") from None
