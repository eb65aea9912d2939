"""The interface of every runtime."""

from abc import ABC, abstractmethod
from pathlib import Path
from time import perf_counter_ns

import numpy as np
from pydantic import Field

from prune2deploy.files import Record

Arrays = dict[str, np.ndarray]


class DeviceInfo(Record):
    """The device that something was measured on."""

    kind: str
    name: str
    cores: int = Field(ge=1, description="physical cores this process may use")
    memory_gb: float

    @property
    def slug(self) -> str:
        """The device's name as a folder name."""
        words = "".join(letter.lower() if letter.isalnum() else " " for letter in self.name).split()
        return "-".join([*words, f"{self.cores}c"] if self.kind == "cpu" else words)


class RuntimeInfo(Record):
    """What executes, and every setting that latency depends on."""

    name: str
    version: str
    provider: str
    threads: int
    affinity: list[int]
    settings: dict[str, str]


class Engine(ABC):
    """A model that is ready to run."""

    @abstractmethod
    def run(self, inputs: Arrays) -> np.ndarray:
        """The first output for `inputs`."""

    def time_ms(self, inputs: Arrays) -> float:
        """Milliseconds of one run on `inputs`."""
        start = perf_counter_ns()
        self.run(inputs)
        return (perf_counter_ns() - start) / 1e6


class Runtime(ABC):
    """Builds engines, all with the same settings."""

    @abstractmethod
    def build(self, onnx_file: Path) -> Engine:
        """An engine of the model in `onnx_file`; raises InputError when the runtime refuses it."""

    @abstractmethod
    def describe(self) -> RuntimeInfo:
        """The settings that its engines run with."""

    @abstractmethod
    def device(self) -> DeviceInfo:
        """The device that its engines run on."""

    @property
    @abstractmethod
    def filter_step(self) -> int:
        """FFN widths that are a multiple of this waste nothing on this device."""
