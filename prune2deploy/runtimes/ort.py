"""ONNX Runtime, on the CPU or on CUDA."""

import os
import platform
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import psutil

from prune2deploy.config import Target
from prune2deploy.errors import InputError, MissingPackageError
from prune2deploy.runtimes.base import Arrays, DeviceInfo, Engine, Runtime, RuntimeInfo

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
# spinning threads of several live sessions fight for the cores: 50 % spread instead of 3 % (docs/measuring.md)
SETTINGS = {"session.intra_op.allow_spinning": "0"}


class OrtEngine(Engine):
    """An ONNX Runtime session."""

    def __init__(self, session: "onnxruntime.InferenceSession"):
        self.session = session

    def run(self, inputs: Arrays) -> np.ndarray:
        """See Engine."""
        return self.session.run(None, inputs)[0]


class OnnxRuntime(Runtime):
    """Sessions with one thread pool each, pinned to `threads` threads that do not spin."""

    def __init__(self, target: Target):
        self.target = target
        self.threads = target.threads or usable_cores()
        self.provider = PROVIDERS[target.device]
        if target.device == "gpu":
            self._refuse_missing_gpu()

    def build(self, onnx_file: Path) -> OrtEngine:
        """See Runtime; raises InputError where the session silently fell back to another provider."""
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in SETTINGS.items():
            options.add_session_config_entry(key, value)
        try:
            session = ort.InferenceSession(str(onnx_file), options, providers=[self.provider])
        except Exception as error:  # the runtime's own exceptions share no public base
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{onnx_file}: ONNX Runtime does not load it: {reason[:300]}") from None
        if session.get_providers()[0] != self.provider:
            raise InputError(
                f"ONNX Runtime gave {session.get_providers()[0]} where {self.provider} was asked for: "
                "CUDA or cuDNN libraries are missing (`prune2deploy doctor` says which)"
            )
        return OrtEngine(session)

    def describe(self) -> RuntimeInfo:
        """See Runtime."""
        return RuntimeInfo(
            name="onnxruntime", version=import_onnxruntime().__version__, provider=self.provider, threads=self.threads,
            affinity=affinity(), settings=dict(SETTINGS),
        )

    def device(self) -> DeviceInfo:
        """See Runtime."""
        return cpu_device() if self.target.device == "cpu" else cuda_device()

    @property
    def filter_step(self) -> int:
        """One AVX-512 register row on a CPU, one tensor-core tile on a GPU."""
        return 16 if self.target.device == "cpu" else 64

    def _refuse_missing_gpu(self) -> None:
        if self.provider not in import_onnxruntime().get_available_providers():
            raise InputError(
                "no CUDA here: ONNX Runtime offers "
                f"{', '.join(import_onnxruntime().get_available_providers())}; use --cpu, or install "
                "'prune2deploy[gpu]' on a machine with an NVIDIA GPU"
            )


def import_onnxruntime() -> ModuleType:
    """The onnxruntime module; raises MissingPackageError."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingPackageError("onnxruntime", "cpu") from None
    return onnxruntime


def affinity() -> list[int]:
    """The logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Physical cores that this process may use: more threads than that slow a matrix product down."""
    return max(1, min(psutil.cpu_count(logical=False) or 1, len(affinity())))


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

    if not torch.cuda.is_available():
        raise InputError("no NVIDIA GPU that CUDA can use was found; use --cpu")
    properties = torch.cuda.get_device_properties(0)
    return DeviceInfo(
        kind="gpu", name=properties.name, cores=properties.multi_processor_count,
        memory_gb=round(properties.total_memory / 2**30, 1),
    )
