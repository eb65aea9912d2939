"""TensorRT, and TensorRT for RTX: engines from the plain ONNX graph, strongly typed.

Precision is in the graph (`graphs/precision.py`): TensorRT 11 has no flags for it. Each workload point gets an optimization
profile that is tuned for exactly its shape and takes everything smaller; one more takes whatever the model can.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.config import Target
from prune2deploy.errors import CheckFailedError, InputError, MissingPackageError
from prune2deploy.files import replacing
from prune2deploy.graphs.files import digest_of_graph
from prune2deploy.graphs.onnx_nodes import modules_of
from prune2deploy.graphs.precision import cast
from prune2deploy.provenance import cache_key
from prune2deploy.runtimes.base import Arrays, DeviceInfo, Engine, Runtime, RuntimeInfo, Shapes, TimedRun
from prune2deploy.runtimes.devices import cuda_device
from prune2deploy.runtimes.nvml import GpuWatch
from prune2deploy.runtimes.processors import affinity

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
Ranges = dict[str, tuple[Shape, Shape, Shape]]  # least, best and largest shape of each input
OPEN_BATCH = 32  # samples that fit into the profile that takes whatever the model can; scoring uses as many
PROFILED = 20  # runs that layers are timed in
WARM_UP = 3  # runs before a CUDA graph is captured: TensorRT sets itself up in the first ones


class TensorRt(Runtime):
    """Builds plans with one set of options; timing caches and plans are kept in the folder `cache`."""

    artifact = "model.plan"
    filter_step = 64  # a tensor-core tile

    def __init__(self, target: Target, shapes: Shapes | None, cache: Path):
        self.target, self.settings, self.shapes, self.cache = target, target.tensorrt, shapes, cache
        self.trt = import_tensorrt()
        self.log = _log(self.trt)

    def compile(self, onnx_file: Path, artifact: Path) -> None:
        """See Runtime; takes the plan from the cache where one was built of the same graph with the same options."""
        import onnx

        graph = onnx.load(onnx_file, load_external_data=False).graph
        profiles = self.profiles(graph)
        kept = self.cache / f"{self._key(onnx_file, profiles)}.plan"
        if kept.exists() and not self.settings.strip_weights:
            shutil.copyfile(kept, artifact)
            return
        with tempfile.TemporaryDirectory() as folder:
            typed = Path(folder) / "typed.onnx"
            cast(onnx_file, self.target.own_precision, typed)
            if not kept.exists():
                plan = self._build(typed, graph, profiles)
                with replacing(kept) as partial:
                    partial.write_bytes(plan)
            if self.settings.strip_weights:
                artifact.write_bytes(self._with_weights(kept.read_bytes(), typed))
            else:
                shutil.copyfile(kept, artifact)

    def load(self, artifact: Path) -> "TensorRtEngine":
        """See Runtime."""
        runtime = self.trt.Runtime(self.log)
        if self.settings.version_compatible:
            runtime.engine_host_code_allowed = True
        try:
            engine = runtime.deserialize_cuda_engine(artifact.read_bytes())
        except OSError as error:
            raise InputError(f"{artifact}: cannot be read: {error}") from None
        if engine is None:
            raise InputError(f"{artifact}: TensorRT {self.trt.__version__} does not load it: {self.log.last}")
        return TensorRtEngine(self.trt, runtime, engine)

    def describe(self) -> RuntimeInfo:
        """See Runtime."""
        settings = {name: str(value) for name, value in self.settings.model_dump().items()}
        return RuntimeInfo(
            name="tensorrt", version=self.trt.__version__, provider=self.trt.__name__, threads=1, affinity=affinity(),
            settings=settings,
        )

    def device(self) -> DeviceInfo:
        """See Runtime."""
        return cuda_device()

    def profiles(self, graph: "onnx.GraphProto") -> list[Ranges]:
        """The ranges of every workload point, and then those of all the rest that `graph` can take."""
        assert self.shapes is not None
        points = [{"batch": point.batch, "sequence": point.seq_len or 1} for point in self.shapes.workload]
        limits = self.shapes.limits
        rest = {"batch": max(OPEN_BATCH, *(sizes["batch"] for sizes in points)), "sequence": limits.get("sequence", 1)}
        best = max(points, key=lambda sizes: (sizes["sequence"], sizes["batch"]))
        return [_shapes(graph, sizes, sizes) for sizes in points] + [_shapes(graph, best, rest)]

    def _key(self, onnx_file: Path, profiles: list) -> str:
        """A name for everything that a plan depends on."""
        precision = self.target.own_precision
        said = {"graph": digest_of_graph(onnx_file), "precision": precision, "profiles": profiles, **self._where_and_how()}
        return cache_key(("prune2deploy",), json.dumps(said, sort_keys=True))  # whose cast the plan is built of

    def _where_and_how(self) -> dict[str, Any]:
        return {"gpu": _gpu(), "version": f"{self.trt.__name__} {self.trt.__version__}", **self.settings.model_dump()}

    def _build(self, typed: Path, graph: "onnx.GraphProto", profiles: list) -> bytes:
        trt = self.trt
        builder = trt.Builder(self.log)
        # no flag has an effect in TensorRT 11, where every network is strongly typed
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(typed)):
            raise InputError(parser_error(parser, graph))
        config = builder.create_builder_config()
        self._configure(config)
        for shapes in profiles:
            profile = builder.create_optimization_profile()
            for name, (least, best, largest) in shapes.items():
                profile.set_shape(name, least, best, largest)
            config.add_optimization_profile(profile)
        timings = self.cache / f"{cache_key((), json.dumps(self._where_and_how()))}.timings"
        timing_cache = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
        if timing_cache is not None:  # TensorRT for RTX has nothing to time at build time
            config.set_timing_cache(timing_cache, False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise CheckFailedError(f"TensorRT {trt.__version__} could not build the engine: {self.log.last}")
        self.cache.mkdir(parents=True, exist_ok=True)
        if (timing_cache := config.get_timing_cache()) is not None:
            with replacing(timings) as partial:
                partial.write_bytes(bytes(timing_cache.serialize()))
        return bytes(plan)

    def _configure(self, config: Any) -> None:
        trt, settings = self.trt, self.settings
        config.builder_optimization_level = settings.optimization_level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names of layers: what they cost is told by block
        if settings.workspace_gb:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings.workspace_gb * 2**30))
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if settings.strip_weights:
            config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        if self.target.own_precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and no more exact than half precision

    def _with_weights(self, stripped: bytes, typed: Path) -> bytes:
        """The whole plan of a stripped one; needs the GPU that it was built for."""
        trt = self.trt
        engine = trt.Runtime(self.log).deserialize_cuda_engine(stripped)
        if engine is None:
            raise InputError(f"weights can only be put in on the GPU that a plan is for: {self.log.last}")
        refitter = trt.Refitter(engine, self.log)
        if not trt.OnnxParserRefitter(refitter, self.log).refit_from_file(str(typed)) or not refitter.refit_cuda_engine():
            raise CheckFailedError(f"TensorRT could not put the weights back into the plan: {self.log.last}")
        config = engine.create_serialization_config()
        config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
        return bytes(engine.serialize_with_config(config))


class TensorRtEngine(Engine):
    """A deserialized plan. `runtime`: what deserialized it, which must live as long."""

    def __init__(self, trt: ModuleType, runtime: Any, engine: Any):
        self.trt, self.runtime, self.engine = trt, runtime, engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs, self.outputs = inputs, [name for name in names if name not in inputs]

    def watch(self) -> GpuWatch:
        """See Engine."""
        return GpuWatch()

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        import torch

        bound = Bound(self, inputs)
        bound.enqueue()
        torch.cuda.current_stream().synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in bound.outputs.items()}

    def timed(self, inputs: Arrays) -> TimedRun:
        """See Engine: CUDA events around the replay of a CUDA graph, or around an enqueue where none can be captured."""
        return Replay(self, inputs)

    def layer_ms(self, inputs: Arrays) -> dict[str, float]:
        """See Engine: means; profiling slows the engine down, so they do not add up to `timed`."""
        import torch

        trt = self.trt
        spent: dict[str, float] = {}

        class Profiler(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                spent[layer_name] = spent.get(layer_name, 0.0) + ms / PROFILED

        bound = Bound(self, inputs)
        for _ in range(WARM_UP):
            bound.enqueue()
        torch.cuda.current_stream().synchronize()
        bound.context.profiler = Profiler()
        for _ in range(PROFILED):
            bound.enqueue()
            torch.cuda.current_stream().synchronize()
        return spent

    def layers(self) -> list[dict[str, Any]]:
        """See Engine: what the engine inspector says."""
        inspector = self.engine.create_engine_inspector()
        said = json.loads(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))
        return [layer if isinstance(layer, dict) else {"Name": layer} for layer in said["Layers"]]


class Bound:
    """One execution context with `inputs` and room for the outputs on the device."""

    def __init__(self, owner: TensorRtEngine, inputs: Arrays):
        import torch

        self.context = owner.engine.create_execution_context()
        self.buffers = {name: torch.from_numpy(np.ascontiguousarray(inputs[name])).cuda() for name in owner.inputs}
        shapes = {name: tuple(tensor.shape) for name, tensor in self.buffers.items()}
        stream = torch.cuda.current_stream().cuda_stream
        self.context.set_optimization_profile_async(profile_for(owner.engine, shapes), stream)
        for name, tensor in self.buffers.items():
            self.context.set_input_shape(name, shapes[name])
            self.context.set_tensor_address(name, tensor.data_ptr())
        self.outputs = {}
        for name in owner.outputs:
            shape = tuple(self.context.get_tensor_shape(name))
            self.outputs[name] = torch.empty(shape, dtype=torch.float32, device="cuda")
            self.context.set_tensor_address(name, self.outputs[name].data_ptr())

    def enqueue(self) -> None:
        """Start one run on the current stream."""
        import torch

        if not self.context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise CheckFailedError("TensorRT could not run the engine")


class Replay:
    """One engine on one set of inputs, ready to be timed; holds the buffers that it runs on."""

    def __init__(self, owner: TensorRtEngine, inputs: Arrays):
        import torch

        self.stream = torch.cuda.Stream()
        with torch.cuda.stream(self.stream):
            self.bound = Bound(owner, inputs)
            for _ in range(WARM_UP):
                self.bound.enqueue()
            self.stream.synchronize()
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.enqueue = captured(self.bound.enqueue, self.stream) or self.bound.enqueue

    def __call__(self) -> float:
        """Milliseconds on the device."""
        import torch

        with torch.cuda.stream(self.stream):
            self.start.record()
            self.enqueue()
            self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end)


def captured(enqueue: Callable[[], None], stream: Any) -> Callable[[], None] | None:
    """A replay of a CUDA graph of what `enqueue` does; None where that cannot be captured."""
    import torch

    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            enqueue()
    except (CheckFailedError, RuntimeError):  # the engine copies or synchronises within a run
        torch.cuda.synchronize()
        return None
    return graph.replay


def profile_for(engine: Any, shapes: dict[str, Shape]) -> int:
    """The optimization profile that takes `shapes` and is tuned for what comes nearest; raises InputError."""
    found: dict[int, int] = {}
    for index in range(engine.num_optimization_profiles):
        ranges = [(shape, *engine.get_tensor_profile_shape(name, index)) for name, shape in shapes.items()]
        fits = (
            low <= size <= high
            for shape, least, _, largest in ranges
            for size, low, high in zip(shape, tuple(least), tuple(largest), strict=True)
        )
        if all(fits):
            found[index] = sum(abs(int(np.prod(tuple(best))) - int(np.prod(shape))) for shape, _, best, _ in ranges)
    if not found:
        raise InputError(f"the engine takes no inputs of the shapes {shapes}: build it for a workload that has them")
    return min(found, key=lambda index: found[index])


def parser_error(parser: Any, graph: "onnx.GraphProto") -> str:
    """What TensorRT's parser did not like, with the ONNX node and the module that it came from."""
    error = parser.get_error(0)
    node = error.node_name()
    module = modules_of(graph).get(node)
    where = f"node {node or '?'} ({error.node_operator() or '?'})" + (f" of {module}" if module else "")
    return f"TensorRT cannot take the model: {where}: {error.desc().splitlines()[0]}"


def _shapes(graph: "onnx.GraphProto", best: dict[str, int], largest: dict[str, int]) -> Ranges:
    found = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        found[value.name] = (
            tuple(1 if dim.dim_param else dim.dim_value for dim in dims),
            tuple(best[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims),
            tuple(largest[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims),
        )
    return found


def _log(trt: ModuleType) -> Any:
    """A logger that says nothing and remembers the last error."""

    class Log(trt.ILogger):  # type: ignore[name-defined]
        last = "it does not say why"

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = message.splitlines()[0] if message else self.last

    return Log()


def _gpu() -> str:
    """The GPU that engines are built for; without one they are built ahead of time, to be looked at and not run."""
    try:
        device = cuda_device()
    except InputError:
        return "none"
    return f"{device.name} {device.compute_capability}"


def import_tensorrt() -> ModuleType:
    """TensorRT's module, or that of TensorRT for RTX, which has the same interface; raises MissingPackageError."""
    try:
        import tensorrt
    except ImportError:
        try:
            import tensorrt_rtx
        except ImportError:
            raise MissingPackageError("tensorrt", "tensorrt") from None
        return tensorrt_rtx
    return tensorrt
