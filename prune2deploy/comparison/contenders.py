"""What people make of a model to have it faster without pruning: another graph or runtime, with usual settings."""

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2deploy.config import Project, Target
from prune2deploy.graphs.files import copy_graph
from prune2deploy.runtimes.base import Arrays, Engine
from prune2deploy.runtimes.registry import runtime_for

CALIBRATION = 200  # samples that static int8 is calibrated on


@dataclass(frozen=True)
class Contender:
    """`build`: an engine of the float32 graph, given a folder for what it is made of, and samples to calibrate on."""

    name: str
    build: "Callable[[Path, Path, list[Arrays]], Built]"


@dataclass(frozen=True)
class Built:
    """An engine, and the file that somebody would ship."""

    engine: Engine
    file: Path


def contenders_of(project: Project) -> list[Contender]:
    """Those for the device of `project`; what is not installed is left out."""
    target = project.target
    if target.device == "gpu":
        names = ["onnxruntime"] + (["tensorrt"] if importlib.util.find_spec("tensorrt") else [])
        return [
            Contender(f"{name} {each}", _in_runtime(target.model_copy(update={"runtime": name, "precision": each})))
            for name in names for each in ("fp32", "fp16")
        ]  # fmt: skip
    ort = Target(threads=target.threads)
    found = [
        Contender("ONNX Runtime fp32", _in_runtime(ort)),
        Contender("ONNX Runtime dynamic int8", _dynamic(ort)),
        Contender("ONNX Runtime dynamic int8, per channel, 7 bits", _dynamic(ort, per_channel=True, reduce_range=True)),
        Contender("ONNX Runtime static int8 (S8S8, per channel)", _static(ort, signed=True)),
        Contender("ONNX Runtime static int8 (U8S8, 7 bits)", _static(ort, signed=False)),
    ]
    if importlib.util.find_spec("openvino"):
        from prune2deploy.runtimes.openvino import has_bf16

        vino = Target(runtime="openvino", threads=target.threads)
        found.append(Contender("OpenVINO fp32", _in_runtime(vino)))
        if has_bf16():
            found.append(Contender("OpenVINO bf16", _in_runtime(vino.model_copy(update={"precision": "bf16"}))))
        if importlib.util.find_spec("nncf"):
            found.append(Contender("OpenVINO int8 (NNCF)", _nncf(vino)))
    return found


def _in_runtime(target: Target) -> Callable[[Path, Path, list[Arrays]], Built]:
    def build(graph: Path, folder: Path, samples: list[Arrays]) -> Built:
        runtime = runtime_for(target)
        artifact = folder / runtime.artifact
        if target.own_precision == "fp32" and target.device == "cpu":  # graphs run as they are
            copy_graph(graph, artifact.with_suffix(".onnx"))
            artifact = artifact.with_suffix(".onnx")
        else:
            runtime.compile(graph, artifact)
        return Built(runtime.load(artifact), artifact)

    return build


def _dynamic(target: Target, **settings: bool) -> Callable[[Path, Path, list[Arrays]], Built]:
    def build(graph: Path, folder: Path, samples: list[Arrays]) -> Built:
        from onnxruntime.quantization import quantize_dynamic

        with _quiet():
            quantize_dynamic(graph, folder / "model.onnx", **settings)
        return Built(runtime_for(target).load(folder / "model.onnx"), folder / "model.onnx")

    return build


def _static(target: Target, signed: bool) -> Callable[[Path, Path, list[Arrays]], Built]:
    def build(graph: Path, folder: Path, samples: list[Arrays]) -> Built:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.samples = iter(samples)

            def get_next(self) -> Any:
                return next(self.samples, None)

        prepared = folder / "prepared.onnx"
        with _quiet():
            quant_pre_process(graph, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared, folder / "model.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=signed,
                reduce_range=not signed, activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )  # fmt: skip
        return Built(runtime_for(target).load(folder / "model.onnx"), folder / "model.onnx")

    return build


def _nncf(target: Target) -> Callable[[Path, Path, list[Arrays]], Built]:
    def build(graph: Path, folder: Path, samples: list[Arrays]) -> Built:
        import nncf
        import openvino

        with _quiet():
            model = openvino.Core().read_model(str(graph))
            lower = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER)
            openvino.save_model(lower, str(folder / "model.xml"), compress_to_fp16=False)
        return Built(runtime_for(target).load(folder / "model.xml"), folder / "model.bin")

    return build


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """These libraries print and log advice that nobody here can follow."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
