"""What a Triton server reads: `config.pbtxt`, written with its own schema, and the warm-up files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.config import BackendName, ServingSettings
from prune2deploy.errors import CheckFailedError, InputError, MissingPackageError
from prune2deploy.files import write_text
from prune2deploy.runtimes.base import RuntimeInfo

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG_FILE = "config.pbtxt"
# the backend for OpenVINO cannot be told to compute in float32 where the processor has bf16, nor how large batches may be
OPENVINO_BACKEND = {"SKIP_OV_DYNAMIC_BATCHSIZE": "YES", "ENABLE_BATCH_PADDING": "NO"}
WARMUP_DIRECTORY = "warmup"  # the server looks for input_data_file nowhere else

TRITON_TYPES = {"int64": "TYPE_INT64", "int32": "TYPE_INT32", "float32": "TYPE_FP32", "string": "TYPE_STRING"}


@dataclass(frozen=True)
class Backend:
    """How Triton runs a model. In a version directory, `model` is what runs, `graph` the ONNX that says what goes in."""

    platform: str
    model: str
    graph: str


BACKENDS: dict[BackendName, Backend] = {
    "onnxruntime": Backend("onnxruntime_onnx", "model.onnx", "model.onnx"),
    "openvino": Backend("", "model.xml", "onnx/model.onnx"),
    "tensorrt": Backend("tensorrt_plan", "model.plan", "onnx/model.onnx"),
    "python": Backend("", "model.onnx", "model.onnx"),  # which model.py runs in ONNX Runtime or OpenVINO
}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model; `dims` leave out the batch axis, -1 is a free axis."""

    name: str
    dtype: str
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.dims)}"


@dataclass(frozen=True)
class WarmUp:
    """One batch that the server runs before it reports READY.

    `files` maps the name of a file in `warmup/` to the input it holds one sample of; the server repeats it
    `batch_size` times.
    """

    name: str
    batch_size: int
    files: dict[str, TensorSpec]


def import_schema() -> Any:
    """Triton's protobuf schema of model configurations."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        raise MissingPackageError("tritonclient", "triton") from None
    return model_config_pb2


def tensor_specs(onnx_file: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The inputs and the outputs of a graph; raises CheckFailedError where the first axis is not a free batch."""
    import onnx

    try:
        graph = onnx.load(onnx_file, load_external_data=False).graph
    except FileNotFoundError:
        raise InputError(f"{onnx_file}: no such ONNX model") from None
    except Exception as error:  # protobuf's DecodeError, which onnx does not re-export, or an OSError
        raise InputError(f"{onnx_file}: not a readable ONNX model: {first_line(error)}") from None
    if not graph.output:  # what an empty file parses to
        raise InputError(f"{onnx_file}: not an ONNX model: it has no outputs")
    weights = {tensor.name for tensor in graph.initializer}  # listed among the inputs by old exporters
    inputs = [_spec_of_value(onnx_file, value) for value in graph.input if value.name not in weights]
    return inputs, [_spec_of_value(onnx_file, value) for value in graph.output]


def _spec_of_value(onnx_file: Path, value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dims = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim]
    if len(dims) < 2 or dims[0] != -1:
        raise CheckFailedError(
            f"{onnx_file}: {value.name!r} has shape {dims}, but Triton can only batch tensors of two or more axes, the "
            "first of them free"
        )
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        dtype = "untyped"
    return TensorSpec(value.name, _supported(dtype, f"{onnx_file}: {value.name!r}"), tuple(dims[1:]))


def _supported(dtype: str, where: str) -> str:
    numbers = [name for name in TRITON_TYPES if name != "string"]
    if dtype not in numbers:
        raise CheckFailedError(f"{where} is {dtype}: a package takes and gives only {', '.join(numbers)}")
    return dtype


def model_config(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, max_batch_size: int,
    parameters: Mapping[str, str], backend: BackendName = "onnxruntime", serving: ServingSettings | None = None,
    device: str = "cpu", labels_file: str | None = None, warmups: Sequence[WarmUp] = (), profiles: int = 1,
) -> "ModelConfig":
    """The complete configuration of a model: nothing is left to the server's auto-completion.

    Args:
        name: of the model, which is the name of its directory.
        inputs: as `tensor_specs` gives them.
        outputs: likewise; the first gets the labels.
        max_batch_size: 1 or more.
        parameters: of the backend, so that it runs the model as it was measured.
        backend: what runs it. TensorRT replays CUDA graphs for the shapes of the warm-ups.
        serving: what the project says of it.
        device: "cpu" or "gpu"; on "gpu" every GPU the server sees gets the instances.
        labels_file: in the entry, one label a line.
        warmups: as `write_warmup` gives them.
        profiles: optimization profiles of a TensorRT plan; the server uses the first alone unless it is told of others.
    """
    serving = serving or ServingSettings()
    config = _config(name, inputs, outputs, max_batch_size)
    config.platform, config.backend = BACKENDS[backend].platform, backend
    if labels_file is not None:
        config.output[0].label_filename = labels_file
    config.dynamic_batching.max_queue_delay_microseconds = serving.queue_delay_us
    if serving.response_cache:
        config.response_cache.enable = True
    schema = import_schema()
    kind = schema.ModelInstanceGroup.KIND_GPU if device == "gpu" else schema.ModelInstanceGroup.KIND_CPU
    group = config.instance_group.add(kind=kind, count=serving.instances)
    if backend == "tensorrt":
        group.profile.extend(map(str, range(profiles)))
        config.optimization.cuda.graphs = True
        for warmup in warmups:
            graph = config.optimization.cuda.graph_spec.add(batch_size=warmup.batch_size)
            for spec in warmup.files.values():
                graph.input[spec.name].dim.extend(spec.dims)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    for warmup in warmups:
        sample = config.model_warmup.add(name=warmup.name, batch_size=warmup.batch_size)
        for file, spec in warmup.files.items():
            sample.inputs[spec.name].data_type = _triton_type(spec)
            sample.inputs[spec.name].dims.extend(spec.dims)
            sample.inputs[spec.name].input_data_file = file
    return config


def parameters_of(runtime: RuntimeInfo, backend: BackendName) -> dict[str, str]:
    """What `backend` is told, so that it runs a model with the settings of `runtime`, in which it was measured."""
    if runtime.name == "tensorrt":
        return {}
    if runtime.name == "onnxruntime":
        return {"intra_op_thread_count": str(runtime.threads), "inter_op_thread_count": "1"}
    if backend == "python":
        return runtime.settings
    said = {name: value for name, value in runtime.settings.items() if name != "INFERENCE_PRECISION_HINT"}
    bf16 = {"HINT_BF16": "YES"} if runtime.settings["INFERENCE_PRECISION_HINT"] == "bf16" else {}
    return {**said, **bf16, **OPENVINO_BACKEND}


def step_config(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int, instances: int
) -> "ModelConfig":
    """The configuration of a python model beside the model proper; what waits for it is given to it together."""
    config = _config(name, inputs, outputs, max_batch_size)
    config.backend = "python"
    config.dynamic_batching.SetInParent()
    config.instance_group.add(kind=import_schema().ModelInstanceGroup.KIND_CPU, count=instances)
    return config


def ensemble_config(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int,
    steps: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]],
) -> "ModelConfig":
    """The configuration of an ensemble: `steps` maps each model to its inputs and outputs and what each is called here."""
    config = _config(name, inputs, outputs, max_batch_size)
    config.platform = "ensemble"
    for model, (taken, given) in steps.items():
        step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
        step.input_map.update(taken)
        step.output_map.update(given)
    return config


def _config(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int
) -> "ModelConfig":
    config = import_schema().ModelConfig(name=name, max_batch_size=max_batch_size)
    for tensors, specs in ((config.input, inputs), (config.output, outputs)):
        for spec in specs:
            tensors.add(name=spec.name, data_type=_triton_type(spec), dims=spec.dims)
    config.version_policy.latest.num_versions = 1
    return config


def _triton_type(spec: TensorSpec) -> int:
    return import_schema().DataType.Value(TRITON_TYPES[spec.dtype])


def write_warmup(entry: Path, name: str, inputs: dict[str, np.ndarray]) -> WarmUp:
    """Write the files of a warm-up sample with the shape of `inputs`, whose first axis is the batch.

    The server makes `batch_size` requests of batch 1 out of one sample, each of them reading the whole file from its
    start (GenerateWarmupData in triton-inference-server/core, src/backend_model_instance.cc; ModelWarmup in
    model_config.proto: "the 'inputs' specified below will be duplicated to match the batch size"; seen on server 2.51).
    So a file holds the first sample alone, row-major and raw, and its dims have no batch axis.
    """
    batch_sizes = {len(array) for array in inputs.values()}
    if len(batch_sizes) != 1:
        raise CheckFailedError(f"warm-up {name!r}: its inputs have different batch sizes, {sorted(batch_sizes)}")
    directory = entry / WARMUP_DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for key, array in inputs.items():
        dtype = _supported(array.dtype.name, f"warm-up {name!r}: {key!r}")
        file = f"{name}.{key}"  # by sample, as a workload may have several lengths
        (directory / file).write_bytes(array[0].astype(np.dtype(dtype).newbyteorder("<")).tobytes())
        files[file] = TensorSpec(key, dtype, array.shape[1:])
    return WarmUp(name, batch_sizes.pop(), files)


def write_config(entry: Path, config: "ModelConfig") -> None:
    """Write `config` as the configuration of `entry`."""
    from google.protobuf import text_format

    head = "# Written by `prune2deploy export`. The batch is the axis that dims leave out.\n"
    write_text(entry / CONFIG_FILE, head + text_format.MessageToString(config, as_utf8=True))


def parse_config(path: Path) -> "ModelConfig":
    """The configuration at `path`; raises InputError where it is missing or damaged."""
    from google.protobuf import text_format

    schema = import_schema()
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), schema.ModelConfig())
    except FileNotFoundError:
        raise InputError(f"{path}: no such Triton configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this Triton configuration cannot be read: {first_line(error)}") from None
    except text_format.ParseError as error:
        raise InputError(f"{path}: not a valid Triton configuration: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """What `error` says, on one short line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
