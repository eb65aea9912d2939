"""OpenVINO on the CPU."""

import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from prune2deploy.config import BackendName, Precision, Target
from prune2deploy.errors import InputError, MissingPackageError, reason_of
from prune2deploy.files import share
from prune2deploy.graphs.files import copy_graph
from prune2deploy.runtimes.base import Arrays, DeviceInfo, Engine, Runtime, RuntimeInfo
from prune2deploy.runtimes.devices import cpu_device
from prune2deploy.runtimes.processor_kind import instructions, saturates
from prune2deploy.runtimes.processors import affinity, usable_cores

if TYPE_CHECKING:
    import openvino

DEVICE = "CPU"
# what OpenVINO computes in where it is told; left to itself it takes bf16 on processors that have it
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine(Engine):
    """A compiled model with one request, which runs where it is called."""

    def __init__(self, compiled: "openvino.CompiledModel", threads: int):
        self.request, self.threads = compiled.create_infer_request(), threads
        self.names = [output.get_any_name() for output in compiled.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        found = self.request.infer(inputs, share_inputs=True)
        return {name: found[index].copy() for index, name in enumerate(self.names)}


class OpenVino(Runtime):
    """Models compiled for one stream of `threads` threads, in the precision that the target names and no other."""

    artifact = "model.xml"

    def __init__(self, target: Target):
        self.target, self.threads = target, target.threads or usable_cores()
        if target.own_precision == "bf16" and not has_bf16():
            raise InputError('OpenVINO computes in bf16 on no such processor: choose precision = "fp32"')

    @property
    def settings(self) -> dict[str, str]:
        """What models are compiled with."""
        return {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(self.threads),
            "INFERENCE_PRECISION_HINT": HINTS[self.target.own_precision],
        }  # fmt: skip

    def compile(self, onnx_file: Path, artifact: Path) -> None:
        """See Runtime; an `artifact` that is an ONNX file is the graph itself, which OpenVINO reads, too."""
        if artifact.suffix == ".onnx":
            copy_graph(onnx_file, artifact)
            return
        with tempfile.TemporaryDirectory(dir=artifact.parent, prefix=".openvino-") as folder:
            made = Path(folder) / artifact.name
            import_openvino().serialize(self._read(onnx_file), str(made))
            for file in (made.with_suffix(".bin"), made):
                share(file)
                file.replace(artifact.parent / file.name)

    def build(self, onnx_file: Path) -> OpenVinoEngine:
        """See Runtime."""
        return self.load(onnx_file)

    def load(self, artifact: Path) -> OpenVinoEngine:
        """See Runtime."""
        core = import_openvino().Core()
        model = self._read(artifact)
        try:
            compiled = core.compile_model(model, DEVICE, self.settings)
        except Exception as error:  # the bindings raise RuntimeError and TypeError, as it comes
            raise InputError(f"{artifact}: OpenVINO does not compile it: {reason_of(error)}") from None
        return OpenVinoEngine(compiled, self.threads)

    def _read(self, file: Path) -> "openvino.Model":
        try:
            return import_openvino().Core().read_model(str(file))
        except Exception as error:  # likewise
            raise InputError(f"{file}: OpenVINO does not read it: {reason_of(error)}") from None

    def describe(self) -> RuntimeInfo:
        """See Runtime."""
        return RuntimeInfo(
            name="openvino", version=import_openvino().__version__, provider=DEVICE, threads=self.threads,
            affinity=affinity(), settings=self.settings,
        )

    def device(self) -> DeviceInfo:
        """See Runtime."""
        return cpu_device()

    def otherwise(self, backend: BackendName) -> str | None:
        """See Runtime: Triton's OpenVINO backend knows a hint for bf16 (HINT_BF16), and none for fp32."""
        if backend != "openvino" or self.target.own_precision == "bf16" or not has_bf16():
            return None
        return (
            "on a processor like this one Triton's OpenVINO backend computes in bf16, and cannot be told otherwise: export "
            "with --serve python, or measure with --precision bf16"
        )

    @property
    def narrow(self) -> bool:
        """See Runtime."""
        return saturates(instructions())

    @property
    def filter_step(self) -> int:
        """One AVX-512 register row."""
        return 16


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this processor, which it does unless it is told otherwise."""
    return "BF16" in import_openvino().Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def import_openvino() -> ModuleType:
    """The openvino module; raises MissingPackageError."""
    try:
        import openvino
    except ImportError:
        raise MissingPackageError("openvino", "openvino") from None
    return openvino
