"""What only a GPU can tell. Skipped without one; `pytest -m gpu` on a machine that has one."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import structures
import torch
from tiny import PLANS, plan_keeping

from prune2deploy.config import Target, TensorRtSettings, WorkloadPoint
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.graphs.onnx_nodes import modules_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.layer_times import OTHER, block_ms
from prune2deploy.models.surgery import shrink_
from prune2deploy.runtimes.base import Shapes
from prune2deploy.runtimes.nvml import gpu_state
from prune2deploy.runtimes.registry import runtime_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that CUDA can use"),
]
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 0.1}


@pytest.fixture
def pruned(case, tmp_path):
    """A shrunk model with ragged widths, and its ONNX file."""
    model = copy.deepcopy(case.model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "classifier" not in name:
                tensor.mul_(0.3)
    shrink_(model, plan_keeping(model, PLANS["ragged"]))
    export_onnx(model, case.task, tmp_path / "model.onnx")
    return model, tmp_path / "model.onnx"


def on_gpu(case, cache, name, precision, **settings):
    if name == "tensorrt":
        pytest.importorskip("tensorrt")
    length = 16 if case.family == "bert" else None
    points = [WorkloadPoint(batch=batch, seq_len=length) for batch in (1, 4)]
    shapes = Shapes(points, case.task.axis_limits())
    target = Target(device="gpu", runtime=name, precision=precision, tensorrt=TensorRtSettings(**settings))
    return runtime_for(target, shapes, cache)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("tensorrt", "fp32"), ("tensorrt", "fp16"), ("tensorrt", "bf16")],
)
def test_engine_answers_as_pytorch_does_at_every_shape(case, pruned, tmp_path, name, precision):
    model, path = pruned
    engine = on_gpu(case, tmp_path, name, precision).build(path)
    for rows in ([0], [1, 2, 3, 4], list(range(8))):
        batch = case.samples.batch(rows)
        with torch.no_grad():
            wanted = model(**batch.tensors()).logits.numpy()
        got = engine.run(batch.inputs)["logits"]
        assert np.abs(got - wanted).max() < TOLERANCE[precision] * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("family", sorted(structures.CONFIGURATIONS))
def test_every_family_answers_as_pytorch_does(family, name, tmp_path):
    model, task = structures.loaded(family, structures.save_with_data(family, tmp_path), tmp_path)
    export_onnx(model, task, tmp_path / "model.onnx")
    case = SimpleNamespace(task=task, samples=task.evaluation(), family="bert" if structures.is_text(family) else "vit")
    batch = case.samples.batch([0, 1, 2, 3])
    with torch.no_grad():
        wanted = model(**batch.tensors()).logits.numpy()
    for precision in ("fp32", "fp16"):
        engine = on_gpu(case, tmp_path, name, precision).build(tmp_path / "model.onnx")
        assert np.abs(engine.run(batch.inputs)["logits"] - wanted).max() < TOLERANCE[precision] * np.abs(wanted).max()


def test_replayed_cuda_graphs_of_onnx_runtime_answer_for_each_shape(case, pruned, tmp_path):
    target = Target(device="gpu", precision="fp16", cuda_graphs=True)
    engine = runtime_for(target, None, tmp_path).build(pruned[1])
    for rows in ([0], [1, 2, 3, 4]):
        assert 0 < engine.timed(case.samples.batch(rows).inputs)() < 1000  # checks what it replays


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt"])
def test_timing_runs_what_run_runs(case, pruned, tmp_path, name):
    engine = on_gpu(case, tmp_path, name, "fp16").build(pruned[1])
    inputs = case.samples.batch([0, 1, 2, 3]).inputs
    before = engine.run(inputs)
    timed = engine.timed(inputs)
    assert all(0 < timed() < 1000 for _ in range(20))
    np.testing.assert_array_equal(engine.run(inputs)["logits"], before["logits"])


def test_a_stripped_plan_gets_its_weights_back(case, pruned, tmp_path):
    inputs = case.samples.batch([0, 1]).inputs
    whole, stripped = (
        on_gpu(case, tmp_path / str(strip), "tensorrt", "fp16", strip_weights=strip).build(pruned[1]).run(inputs)["logits"]
        for strip in (False, True)
    )
    np.testing.assert_allclose(stripped, whole, rtol=2e-2, atol=1e-2)


def test_time_inside_the_engine_is_told_by_block(case, pruned, tmp_path):
    import onnx

    engine = on_gpu(case, tmp_path, "tensorrt", "fp16").build(pruned[1])
    spent = engine.layer_ms(case.samples.batch([0]).inputs)
    blocks = blocks_of(case.model)
    modules = modules_of(onnx.load(pruned[1]).graph)
    found = block_ms(spent, engine.layers(), modules, blocks)
    assert sum(found.values()) == pytest.approx(sum(spent.values()))
    assert found[OTHER] < 0.8 * sum(found.values())


def test_the_driver_answers():
    torch.zeros(1).cuda()
    state = gpu_state()
    assert state.clock_mhz > 0
    assert state.temperature_c > 0
