"""From `init --gpu` to a TensorRT package, with the GPU replaced where it would run or be asked, and nowhere else.

Graphs are exported, cast and checked for real; a "plan" is the cast graph, and ONNX Runtime executes it.
"""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from steady import SteadyEngine, answer, cli, refused

from prune2deploy.models.table import LatencyTable
from prune2deploy.repository.triton import parse_config
from prune2deploy.runtimes import nvml, ort, trt
from prune2deploy.runtimes.base import DeviceInfo
from prune2deploy.runtimes.nvml import GpuState

pytest_plugins = ("made",)

GPU = DeviceInfo(
    kind="gpu", name="NVIDIA Pretend", cores=132, memory_gb=80, compute_capability="9.0", cuda="13.0", driver="580.1"
)
STATE = GpuState(
    clock_mhz=1980, memory_clock_mhz=2619, power_w=200.0, temperature_c=40, slowed_by=[], other_processes=0
)


class PretendTensorRt:
    """What `TensorRt` asks of the module outside of building and running."""

    __name__ = "tensorrt"
    __version__ = "10.14.1.48"

    class ILogger:
        ERROR, INTERNAL_ERROR = 1, 0


class PretendEngine(SteadyEngine):
    device = "gpu"

    def watch(self):
        return nvml.GpuWatch()

    def layer_ms(self, inputs):
        return {layer["Name"]: 0.01 for layer in self.layers()}

    def layers(self):
        return [{"Name": f"fused {name}", "Metadata": f"[ONNX Layer: {name}]"} for name in self.nodes]


def load(runtime, artifact):
    session = onnxruntime.InferenceSession(artifact.read_bytes(), providers=["CPUExecutionProvider"])
    engine = PretendEngine(session, artifact)
    engine.nodes = [node.name for node in onnx.load(artifact).graph.node if node.op_type == "MatMul"]
    return engine


@pytest.fixture
def gpu(monkeypatch, clock):
    monkeypatch.setattr(trt, "import_tensorrt", PretendTensorRt)
    monkeypatch.setattr(trt, "cuda_device", lambda: GPU)
    monkeypatch.setattr(trt.TensorRt, "_build", lambda self, typed, graph, profiles: typed.read_bytes())
    monkeypatch.setattr(trt.TensorRt, "load", load)
    monkeypatch.setattr(nvml, "gpu_state", lambda: STATE)
    return clock


@pytest.fixture
def project(gpu, bert_dir, text_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer(cli(
        "init", bert_dir, "--data", text_data, "--batch", 2, "--seq-len", 8, "--samples", 16, "--gpu",
        "--runtime", "tensorrt", "--precision", "fp16", "--json",
    ))  # fmt: skip
    return tmp_path


def test_run_ends_in_a_plan_that_was_checked(project, bert_dir):
    report = answer(cli("run", "--speedup", 1.3, "--triton", "26.07", "--json"))
    checks = {check["name"]: check for check in report["checks"]}
    assert all(check["passed"] for check in checks.values())
    assert {"ONNX equals PyTorch", "the fp16 engine equals PyTorch", "Triton 26.07 loads it"} <= set(checks)
    package = project / "model_repository" / bert_dir.name
    weights = {entry.data_type for entry in onnx.load(package / "1" / "model.plan").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in weights
    plain = {entry.data_type for entry in onnx.load(package / "1" / "onnx" / "model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in plain
    config = parse_config(package / "config.pbtxt")
    assert (config.platform, config.optimization.cuda.graphs) == ("tensorrt_plan", True)
    assert list(config.instance_group[0].profile) == ["0", "1"], "one for the workload's point, one for the rest"
    manifest = json.loads((package / "1" / "manifest.json").read_text())
    assert manifest["target"]["runtime"] == "tensorrt"
    assert manifest["device"] == GPU.model_dump()
    kept = sum(width > 0 for block, width in report["widths"].items() if block.endswith("ffn"))
    assert sum(ms for block, ms in report["block_ms"].items() if block.endswith("ffn")) == pytest.approx(0.02 * kept)
    assert answer(cli("validate", package, "--json"))["passed"] is True


def test_a_half_precision_graph_that_is_served_itself_passes_as_half_precision_does(project, monkeypatch):
    """As an H200 showed: logits 0.0012 apart failed the comparison with the pipeline, whose limit was that of float32."""
    half = 4e-3  # of the largest logit: beyond what float32 may be off

    def rounding(runtime, artifact):
        engine = load(runtime, artifact)
        if any(entry.data_type == onnx.TensorProto.FLOAT16 for entry in onnx.load(artifact).graph.initializer):
            exact = engine.run
            engine.run = lambda inputs: {name: each + half * np.abs(each).max() for name, each in exact(inputs).items()}
        return engine

    monkeypatch.setattr(ort, "cuda_device", lambda: GPU)
    monkeypatch.setattr(ort.OnnxRuntime, "_refuse_missing_gpu", lambda self: None)
    monkeypatch.setattr(ort.OnnxRuntime, "load", rounding)
    asked = ("run", "--speedup", 1.3, "--runtime", "onnxruntime", "--with-tokenizer", "--json")
    passed = {check["name"]: check["passed"] for check in answer(cli(*asked))["checks"]}
    assert {"package answers as transformers' pipeline", "raw samples give the same"} <= set(passed)
    assert all(passed.values())


def test_table_is_of_the_gpu_and_says_what_it_was_doing(project):
    said = answer(cli("profile", "--json"))
    assert "nvidia-pretend" in said["path"]
    assert said["path"].endswith(".tensorrt.fp16.json")
    table = LatencyTable.model_validate_json((project / said["path"]).read_text())
    assert table.gpu[0] == table.gpu[-1] == STATE
    assert table.device == GPU
    assert table.points[0].curve("attention").precision == "fp16"
    assert np.diff(table.points[0].curve("attention").ms).min() > 0
    before = (project / said["path"]).read_bytes()
    refused(cli("prune", "--speedup", 1.3, "--precision", "bf16"), "no latency table here")
    assert (project / said["path"]).read_bytes() == before


def test_a_server_that_will_not_load_the_plan_stops_the_export(project, bert_dir):
    result = cli("run", "--speedup", 1.3, "--triton", "25.01", "--json")
    assert result.exit_code == 1
    assert "Triton 25.01 loads it" in json.loads(result.stdout)["error"]
    assert not (project / "model_repository" / bert_dir.name).exists()


def test_a_busy_gpu_is_no_place_to_measure(project, monkeypatch):
    busy = STATE.model_copy(update={"other_processes": 1})
    monkeypatch.setattr(nvml, "gpu_state", lambda: busy)
    refused(cli("profile"), "the GPU is busy: 1 other process on it", code=1)


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--cpu"], 'runtime = "tensorrt" needs device = "gpu"'),
        (["--runtime", "onnxruntime", "--precision", "bf16"], "not to be had in onnxruntime on a gpu: choose fp32 or fp16"),
        (["--cpu", "--runtime", "onnxruntime", "--precision", "fp16"], "not to be had in onnxruntime on a cpu: choose auto"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(project, options, needle):
    refused(cli("profile", *options), needle)
