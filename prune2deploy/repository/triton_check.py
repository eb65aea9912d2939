"""Whether a Triton server can make sense of a model repository entry: its configuration held against its files."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.errors import CheckFailedError, InputError
from prune2deploy.repository.triton import (
    BACKENDS,
    CONFIG_FILE,
    TRITON_TYPES,
    WARMUP_DIRECTORY,
    TensorSpec,
    import_schema,
    parse_config,
    tensor_specs,
)

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

NUMPY_TYPES = {triton: name for name, triton in TRITON_TYPES.items()}


def check_entry(entry: Path, version: str, name: str | None = None) -> list[str]:
    """What is wrong with `version` of the model in `entry`; empty when it is good.

    `name` is what the entry will be called, for one that still lies under another name.
    """
    try:
        config = parse_config(entry / CONFIG_FILE)
    except InputError as error:
        return [str(error)]
    problems = frame_problems(config, name or entry.resolve().name)
    backend = BACKENDS.get(config.backend)
    if backend is None or config.platform != backend.platform:
        return [*problems, f"{CONFIG_FILE}: {config.platform!r} on backend {config.backend!r} is nothing that we export"]
    try:
        inputs, outputs = tensor_specs(entry / version / backend.graph)
    except (InputError, CheckFailedError) as error:
        return [*problems, str(error)]
    if not (entry / version / backend.model).is_file():
        problems.append(f"{version}/{backend.model}: no such file, but {CONFIG_FILE} is for it")
    problems += _tensor_problems("input", config.input, inputs)
    problems += _tensor_problems("output", config.output, outputs)
    problems += [problem for output in config.output for problem in _label_problems(entry, output)]
    for sample in config.model_warmup:
        problems += _sample_problems(entry, config, sample, inputs)
    return problems


def frame_problems(config: "ModelConfig", directory: str) -> list[str]:
    """What is wrong with what every configuration has, whatever it is of."""
    problems = []
    if config.name != directory:
        problems.append(f"{CONFIG_FILE}: the model is called {config.name!r}, its directory {directory!r}")
    if config.max_batch_size < 1:
        problems.append(
            f"{CONFIG_FILE}: max_batch_size is {config.max_batch_size}, but dims without the batch need 1 or more"
        )
    return problems


def _tensor_problems(kind: str, configured: Iterable[Any], specs: list[TensorSpec]) -> list[str]:
    found = {tensor.name: spec_of_message(tensor.name, tensor) for tensor in configured}
    expected = {spec.name: spec for spec in specs}
    problems = [f"{CONFIG_FILE}: {kind} {name!r} is not in the model" for name in found if name not in expected]
    for name, spec in expected.items():
        if name not in found:
            problems.append(f"{CONFIG_FILE}: {kind} {name!r} of the model is missing")
        elif found[name] != spec:
            problems.append(f"{CONFIG_FILE}: {kind} {name!r} is {found[name]}, in the model it is {spec}")
    return problems


def spec_of_message(name: str, message: Any) -> TensorSpec:
    """The spec of a ModelInput, ModelOutput or ModelWarmup.Input; a type we never write keeps Triton's name."""
    labels = {number: label for label, number in import_schema().DataType.items()}
    label = labels.get(message.data_type, str(message.data_type))
    return TensorSpec(name, NUMPY_TYPES.get(label, label), tuple(message.dims))


def _label_problems(entry: Path, output: Any) -> list[str]:
    if not output.label_filename:
        return []
    file = entry / output.label_filename
    if not file.is_file():
        return [f"{output.label_filename}: no such file, but output {output.name!r} takes its labels from it"]
    content = file.read_bytes()
    count = content.count(b"\n") + (content != b"" and not content.endswith(b"\n"))  # a name may hold other line ends
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
    found = spec_of_message(expected.name, message)
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
