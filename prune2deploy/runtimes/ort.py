"""ONNX Runtime, on the CPU or on CUDA."""

import itertools
from pathlib import Path
from time import perf_counter_ns
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.config import Target
from prune2deploy.errors import CheckFailedError, InputError, MissingPackageError
from prune2deploy.graphs.files import copy_graph
from prune2deploy.graphs.precision import cast
from prune2deploy.runtimes.base import Arrays, DeviceInfo, Engine, Runtime, RuntimeInfo, TimedRun
from prune2deploy.runtimes.devices import cpu_device, cuda_device
from prune2deploy.runtimes.nvml import GpuWatch
from prune2deploy.runtimes.processor_kind import instructions, saturates
from prune2deploy.runtimes.processors import affinity, usable_cores

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
# spinning threads of several live sessions fight for the cores: 50 % spread instead of 3 % (docs/measuring.md)
SETTINGS = {"session.intra_op.allow_spinning": "0"}
NO_TF32 = {"use_tf32": "0"}  # no more exact than half precision, and on by default
CUDA_GRAPHS = {"enable_cuda_graph": "1"}
NO_GRAPH = -1  # for a run whose buffers are not those of any captured graph
REPLAYED = 0.01  # how far a replayed answer may be from a plain run's, relative to the largest


class OrtEngine(Engine):
    """An ONNX Runtime session on the CPU."""

    def __init__(self, session: "onnxruntime.InferenceSession", threads: int = 1):
        self.session, self.threads = session, threads

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        return self._named(self.session.run(None, inputs))

    def _named(self, outputs: list) -> Arrays:
        return {entry.name: output for entry, output in zip(self.session.get_outputs(), outputs, strict=True)}


class OrtCudaEngine(OrtEngine):
    """A session on CUDA; timed with inputs and outputs that stay on the device.

    With CUDA graphs, every `timed` captures one of its own: a graph is bound to its shapes and to the addresses it read.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", cuda_graphs: bool = False):
        super().__init__(session)
        self.cuda_graphs, self.graphs = cuda_graphs, itertools.count(1)  # 0 is ONNX Runtime's own

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        return self._named(self.session.run(None, inputs, self._run_options(NO_GRAPH)))

    def watch(self) -> GpuWatch:
        """See Engine."""
        return GpuWatch()

    def timed(self, inputs: Arrays) -> TimedRun:
        """See Engine: from the call until the device is done, without copies to and from the host.

        Raises CheckFailedError where replaying a captured graph gives other answers.
        """
        ort = import_onnxruntime()
        options = self._run_options(next(self.graphs))
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        outputs, on_device = self.run(inputs), {}
        for name, output in outputs.items():
            on_device[name] = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, output.dtype, "cuda", 0)
            binding.bind_ortvalue_output(name, on_device[name])

        def run() -> float:
            start = perf_counter_ns()
            self.session.run_with_iobinding(binding, options)  # returns when the device is done
            return (perf_counter_ns() - start) / 1e6

        if self.cuda_graphs:
            for _ in range(2):  # captures, and then replays
                run()
            for name, output in outputs.items():
                if not np.allclose(on_device[name].numpy(), output, rtol=0, atol=REPLAYED * float(np.abs(output).max())):
                    raise CheckFailedError("replaying a CUDA graph gives other answers: set cuda_graphs = false")
        return run

    def _run_options(self, graph: int) -> "onnxruntime.RunOptions | None":
        """Capture and replay the graph of this number."""
        if not self.cuda_graphs:
            return None
        options = import_onnxruntime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


class OnnxRuntime(Runtime):
    """Sessions with one thread pool each, pinned to `threads` threads that do not spin."""

    artifact = "model.onnx"

    def __init__(self, target: Target):
        self.target = target
        self.threads = target.threads or usable_cores()
        self.provider = PROVIDERS[target.device]
        if target.device == "gpu":
            self._refuse_missing_gpu()

    def compile(self, onnx_file: Path, artifact: Path) -> None:
        """See Runtime."""
        if self.target.own_precision == "fp32":
            copy_graph(onnx_file, artifact)
        else:
            cast(onnx_file, self.target.own_precision, artifact)

    def build(self, onnx_file: Path) -> OrtEngine:
        """See Runtime."""
        if self.target.own_precision == "fp32":
            return self.load(onnx_file)
        engine = super().build(onnx_file)
        assert isinstance(engine, OrtEngine)
        return engine

    def load(self, artifact: Path) -> OrtEngine:
        """See Runtime; raises InputError where the session silently fell back to another provider."""
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in SETTINGS.items():
            options.add_session_config_entry(key, value)
        provider = (self.provider, self._provider_options) if self.target.device == "gpu" else self.provider
        try:
            session = ort.InferenceSession(str(artifact), options, providers=[provider])
        except Exception as error:  # the runtime's own exceptions share no public base
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{artifact}: ONNX Runtime does not load it: {reason[:300]}") from None
        if session.get_providers()[0] != self.provider:
            raise InputError(
                f"ONNX Runtime gave {session.get_providers()[0]} where {self.provider} was asked for: "
                "CUDA or cuDNN libraries are missing (`prune2deploy doctor` says which)"
            )
        if self.target.device == "gpu":
            return OrtCudaEngine(session, self.target.cuda_graphs)
        return OrtEngine(session, self.threads)

    def describe(self) -> RuntimeInfo:
        """See Runtime."""
        return RuntimeInfo(
            name="onnxruntime", version=import_onnxruntime().__version__, provider=self.provider, threads=self.threads,
            affinity=affinity(), settings=SETTINGS | self._provider_options,
        )

    @property
    def _provider_options(self) -> dict[str, str]:
        if self.target.device == "cpu":
            return {}
        return NO_TF32 | (CUDA_GRAPHS if self.target.cuda_graphs else {})

    def device(self) -> DeviceInfo:
        """See Runtime."""
        return cpu_device() if self.target.device == "cpu" else cuda_device()

    @property
    def narrow(self) -> bool:
        """See Runtime."""
        return self.target.device == "cpu" and saturates(instructions())

    @property
    def filter_step(self) -> int:
        """One AVX-512 register row on a CPU, one tensor-core tile on a GPU."""
        return 16 if self.target.device == "cpu" else 64

    def _refuse_missing_gpu(self) -> None:
        ort = import_onnxruntime()
        if self.provider not in ort.get_available_providers():
            raise InputError(
                f"no CUDA here: ONNX Runtime offers {', '.join(ort.get_available_providers())}; use --cpu, or install "
                "'prune2deploy[gpu]' on a machine with an NVIDIA GPU"
            )
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds CUDA and cuDNN in the pip packages that torch brings


def import_onnxruntime() -> ModuleType:
    """The onnxruntime module; raises MissingPackageError."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingPackageError("onnxruntime", "cpu") from None
    return onnxruntime
