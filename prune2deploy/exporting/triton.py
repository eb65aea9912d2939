"""The Triton side of a package: `config.pbtxt`, the warm-up files, and the check of an entry against its own config."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.errors import CheckFailedError, InputError, MissingPackageError
from prune2deploy.files import write_text

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG_FILE = "config.pbtxt"
WARMUP_DIRECTORY = "warmup"  # the server looks for input_data_file nowhere else

TRITON_TYPES = {"int64": "TYPE_INT64", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
NUMPY_TYPES = {triton: name for name, triton in TRITON_TYPES.items()}

# A lone request waits this long for company, on top of the budgeted latency. Without a delay the batcher joins only
# what has piled up behind a running batch; half a millisecond joins a burst and stays small against budgets of several.
QUEUE_DELAY_US = 500


@dataclass(frozen=True)
class Backend:
    """How Triton runs a model. `model`: the file it loads; `graph`: the ONNX file that says what goes in and out."""

    platform: str
    model: str
    graph: str


BACKENDS = {
    "onnxruntime": Backend("onnxruntime_onnx", "1/model.onnx", "1/model.onnx"),
    "tensorrt": Backend("tensorrt_plan", "1/model.plan", "onnx/model.onnx"),
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
        raise InputError(f"{onnx_file}: not a readable ONNX model: {_first_line(error)}") from None
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
    if dtype not in TRITON_TYPES:
        raise CheckFailedError(f"{where} is {dtype}: a package takes and gives only {', '.join(TRITON_TYPES)}")
    return dtype


def config_text(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, max_batch_size: int, threads: int,
    labels_file: str | None = None, warmups: Sequence[WarmUp] = (), device: str = "cpu", backend: str = "onnxruntime",
) -> str:
    """The text of a complete `config.pbtxt`: nothing is left to the server's auto-completion.

    Args:
        name: of the model, which is the name of its directory.
        inputs: as `tensor_specs` gives them.
        outputs: likewise; the first gets the labels.
        max_batch_size: 1 or more.
        threads: of ONNX Runtime within an operator, as in the measurement.
        labels_file: in the entry, one label a line.
        warmups: as `write_warmup` gives them.
        device: "cpu" or "gpu"; on "gpu" every GPU the server sees gets one instance.
        backend: a key of `BACKENDS`. TensorRT replays CUDA graphs for the shapes of the warm-ups.
    """
    from google.protobuf import text_format

    schema = import_schema()
    config = schema.ModelConfig(
        name=name, platform=BACKENDS[backend].platform, backend=backend, max_batch_size=max_batch_size
    )
    for tensors, specs in ((config.input, inputs), (config.output, outputs)):
        for spec in specs:
            tensors.add(name=spec.name, data_type=_triton_type(spec), dims=spec.dims)
    if labels_file is not None:
        config.output[0].label_filename = labels_file
    config.version_policy.latest.num_versions = 1
    config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_US
    kind = schema.ModelInstanceGroup.KIND_GPU if device == "gpu" else schema.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(kind=kind, count=1)
    if backend == "onnxruntime":
        config.parameters["intra_op_thread_count"].string_value = str(threads)
        config.parameters["inter_op_thread_count"].string_value = "1"
    else:
        config.optimization.cuda.graphs = True
        for warmup in warmups:
            graph = config.optimization.cuda.graph_spec.add(batch_size=warmup.batch_size)
            for spec in warmup.files.values():
                graph.input[spec.name].dim.extend(spec.dims)
    for warmup in warmups:
        sample = config.model_warmup.add(name=warmup.name, batch_size=warmup.batch_size)
        for file, spec in warmup.files.items():
            sample.inputs[spec.name].data_type = _triton_type(spec)
            sample.inputs[spec.name].dims.extend(spec.dims)
            sample.inputs[spec.name].input_data_file = file
    head = "# Written by `prune2deploy export`. The batch is the axis that dims leave out.\n"
    return head + text_format.MessageToString(config, as_utf8=True)


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


def write_config(entry: Path, text: str) -> None:
    """Write `text`, from `config_text`, as the configuration of `entry`."""
    write_text(entry / CONFIG_FILE, text)


def parse_config(path: Path) -> "ModelConfig":
    """The configuration at `path`; raises InputError where it is missing or damaged."""
    from google.protobuf import text_format

    schema = import_schema()
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), schema.ModelConfig())
    except FileNotFoundError:
        raise InputError(f"{path}: no such Triton configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this Triton configuration cannot be read: {_first_line(error)}") from None
    except text_format.ParseError as error:
        raise InputError(f"{path}: not a valid Triton configuration: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def check_entry(entry: Path, name: str | None = None) -> list[str]:
    """What is wrong with a model repository entry, its configuration held against its files; empty when it is good.

    `name` is what the entry will be called, for one that still lies under another name.
    """
    try:
        config = parse_config(entry / CONFIG_FILE)
    except InputError as error:
        return [str(error)]
    problems = _frame_problems(config, name or entry.resolve().name)
    backend = BACKENDS.get(config.backend)
    if backend is None or config.platform != backend.platform:
        return [*problems, f"{CONFIG_FILE}: {config.platform!r} on backend {config.backend!r} is nothing that we export"]
    try:
        inputs, outputs = tensor_specs(entry / backend.graph)
    except (InputError, CheckFailedError) as error:
        return [*problems, str(error)]
    if not (entry / backend.model).is_file():
        problems.append(f"{backend.model}: no such file, but {CONFIG_FILE} is for it")
    problems += _tensor_problems("input", config.input, inputs)
    problems += _tensor_problems("output", config.output, outputs)
    problems += [problem for output in config.output for problem in _label_problems(entry, output)]
    for sample in config.model_warmup:
        problems += _sample_problems(entry, config, sample, inputs)
    return problems


def _frame_problems(config: "ModelConfig", directory: str) -> list[str]:
    problems = []
    if config.name != directory:
        problems.append(f"{CONFIG_FILE}: the model is called {config.name!r}, its directory {directory!r}")
    if config.max_batch_size < 1:
        problems.append(
            f"{CONFIG_FILE}: max_batch_size is {config.max_batch_size}, but dims without the batch need 1 or more"
        )
    return problems


def _tensor_problems(kind: str, configured: Iterable[Any], specs: list[TensorSpec]) -> list[str]:
    found = {tensor.name: _spec_of_message(tensor.name, tensor) for tensor in configured}
    expected = {spec.name: spec for spec in specs}
    problems = [f"{CONFIG_FILE}: {kind} {name!r} is not in the model" for name in found if name not in expected]
    for name, spec in expected.items():
        if name not in found:
            problems.append(f"{CONFIG_FILE}: {kind} {name!r} of the model is missing")
        elif found[name] != spec:
            problems.append(f"{CONFIG_FILE}: {kind} {name!r} is {found[name]}, in the model it is {spec}")
    return problems


def _spec_of_message(name: str, message: Any) -> TensorSpec:
    """Of a ModelInput, ModelOutput or ModelWarmup.Input; a type we never write keeps Triton's name."""
    labels = {number: label for label, number in import_schema().DataType.items()}
    label = labels.get(message.data_type, str(message.data_type))
    return TensorSpec(name, NUMPY_TYPES.get(label, label), tuple(message.dims))


def _label_problems(entry: Path, output: Any) -> list[str]:
    if not output.label_filename:
        return []
    file = entry / output.label_filename
    if not file.is_file():
        return [f"{output.label_filename}: no such file, but output {output.name!r} takes its labels from it"]
    count = len(file.read_bytes().splitlines())
    if (classes := output.dims[-1] if output.dims else 0) != count:
        return [f"{output.label_filename}: {count} labels, but output {output.name!r} has {classes} classes"]
    return []


def _sample_problems(entry: Path, config: "ModelConfig", sample: Any, inputs: list[TensorSpec]) -> list[str]:
    where = f"{CONFIG_FILE}: warm-up {sample.name!r}"
    problems = []
    if not 1 <= sample.batch_size <= max(config.max_batch_size, 1):
        problems.append(f"{where}: batch_size {sample.batch_size} is not in 1..{config.max_batch_size}")
    if set(sample.inputs) != {spec.name for spec in inputs}:
        problems.append(f"{where}: has {sorted(sample.inputs)}, the model takes {sorted(spec.name for spec in inputs)}")
    for expected in inputs:
        if expected.name in sample.inputs:  # a protobuf map would add the key on access
            problems += _sample_input_problems(entry, where, sample.inputs[expected.name], expected)
    return problems


def _sample_input_problems(entry: Path, where: str, message: Any, expected: TensorSpec) -> list[str]:
    found = _spec_of_message(expected.name, message)
    fits = len(found.dims) == len(expected.dims) and all(
        size > 0 and axis in (-1, size) for size, axis in zip(found.dims, expected.dims, strict=True)
    )
    if found.dtype != expected.dtype or not fits:
        return [f"{where}: {expected.name!r} is {found}, the model takes {expected}"]
    if not message.input_data_file:  # random bytes are no token ids, and zeros no sentence
        return [f"{where}: {expected.name!r} names no data file"]
    file = entry / WARMUP_DIRECTORY / message.input_data_file
    if not file.is_file():
        return [f"{where}: {expected.name!r}: no file {message.input_data_file!r} in {WARMUP_DIRECTORY}/"]
    wanted = math.prod(found.dims) * np.dtype(found.dtype).itemsize
    if (size := file.stat().st_size) != wanted:
        # the server refuses a shorter file, but of a longer one it takes the first bytes without a word
        return [f"{WARMUP_DIRECTORY}/{file.name}: {size} bytes, but {found} takes {wanted}"]
    return []
