"""The interface of every runtime."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from prune2deploy.config import BackendName, RuntimeName, WorkloadPoint
from prune2deploy.files import Record
from prune2deploy.precisions import FORMATS
from prune2deploy.runtimes.load import OtherLoad

Arrays = dict[str, np.ndarray]
TimedRun = Callable[[], float]
DeviceKind = Literal["cpu", "gpu"]


class DeviceInfo(Record):
    """The device that something was measured on."""

    kind: DeviceKind
    name: str
    cores: int = Field(ge=1, description="physical cores this process may use; of a GPU, its multiprocessors")
    memory_gb: float
    compute_capability: str | None = None
    cuda: str | None = None
    driver: str | None = None
    instructions: list[str] = Field(default_factory=list, description="that latency depends on; none where nobody looked")

    def differs(self, other: "DeviceInfo") -> str | None:
        """In what `other` is another device than this one, told for both; None where nothing speaks for that."""
        if (self.name, self.cores) != (other.name, other.cores):
            return f"{self.name} ({self.cores} cores), and this is {other.name} ({other.cores} cores)"
        if self.instructions and other.instructions and self.instructions != other.instructions:
            return f"{self.name} with {', '.join(self.instructions)}, and this one has {', '.join(other.instructions)}"
        return None

    @property
    def slug(self) -> str:
        """The device's name as a folder name."""
        words = "".join(letter.lower() if letter.isalnum() else " " for letter in self.name).split()
        return "-".join([*words, f"{self.cores}c"] if self.kind == "cpu" else words)


class RuntimeInfo(Record):
    """What executes, and every setting that latency depends on."""

    name: RuntimeName
    version: str
    provider: str
    threads: int
    affinity: list[int]
    settings: dict[str, str]


class Watch(Protocol):
    """A context that afterwards says in `problem` what disturbed a device while it was open; None where nothing did."""

    @property
    def problem(self) -> str | None:
        """What disturbed the device."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exception: object) -> None: ...


class Engine(ABC):
    """A model that is ready to run."""

    threads = 1  # of the processor, that it keeps busy

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """The outputs for `inputs`, by name."""

    def timed(self, inputs: Arrays) -> TimedRun:
        """A function that runs `inputs`, kept where the engine wants them, and returns its milliseconds."""

        def run() -> float:
            start = perf_counter_ns()
            self.run(inputs)
            return (perf_counter_ns() - start) / 1e6

        return run

    def watch(self) -> Watch:
        """What afterwards says what disturbed the device that this engine runs on."""
        return OtherLoad(self.threads)

    def layer_ms(self, inputs: Arrays) -> dict[str, float]:
        """Milliseconds of each of the engine's own layers, from runs apart; empty where the runtime does not tell."""
        return {}

    def layers(self) -> list[dict[str, Any]]:
        """What the runtime says of its layers: "Name", and in "Metadata" the ONNX nodes that went into each."""
        return []


@dataclass(frozen=True)
class Shapes:
    """What engines are built for: the `workload`, and the largest size of each named axis that a model can take."""

    workload: Sequence[WorkloadPoint]
    limits: Mapping[str, int]


class Runtime(ABC):
    """Builds engines, all with the same settings."""

    artifact: ClassVar[str]  # what a server loads, as the name of a file

    @abstractmethod
    def compile(self, onnx_file: Path, artifact: Path) -> None:
        """Make, of the float32 graph in `onnx_file`, the file `artifact`; raises InputError and CheckFailedError."""

    @abstractmethod
    def load(self, artifact: Path) -> Engine:
        """The engine in `artifact`; raises InputError when the runtime refuses it."""

    def build(self, onnx_file: Path) -> Engine:
        """An engine of the float32 graph in `onnx_file`, made as the artifact is."""
        with tempfile.TemporaryDirectory(dir=onnx_file.parent, prefix=".engine-") as folder:
            artifact = Path(folder) / self.artifact
            self.compile(onnx_file, artifact)
            return self.load(artifact)

    @abstractmethod
    def describe(self) -> RuntimeInfo:
        """The settings that its engines run with."""

    @abstractmethod
    def device(self) -> DeviceInfo:
        """The device that its engines run on."""

    def otherwise(self, backend: BackendName) -> str | None:
        """What a server's `backend` would do otherwise than is measured here; None where nothing is known of that kind."""
        return None

    @property
    def narrow(self) -> bool:
        """Whether products of 8-bit numbers saturate on the device, so that weights must have 7 bits."""
        return False

    def why_slow(self, precision: str) -> str | None:
        """What the device lacks for `precision` to be fast; None where nothing is known."""
        return "no VNNI" if self.narrow and FORMATS[precision].by_integers else None

    @property
    @abstractmethod
    def filter_step(self) -> int:
        """FFN widths that are a multiple of this waste nothing on this device."""
