"""Builds ahead of time with a real TensorRT, which needs no GPU for that; nothing here runs an engine.

`python ../shared/gpu/tensorrt_builder.py DIR`, then PYTHONPATH=DIR: without it, or TensorRT itself, these are skipped.
"""

import copy

import onnx
import pytest
from onnx import TensorProto, helper
from tiny import PLANS, plan_keeping

from prune2deploy.config import Target, TensorRtSettings, WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.models.surgery import shrink_
from prune2deploy.runtimes import trt as module
from prune2deploy.runtimes.base import Shapes
from prune2deploy.runtimes.registry import runtime_for

pytestmark = pytest.mark.usefixtures("shared_exports")

trt = pytest.importorskip("tensorrt", reason="no TensorRT here: see this file's first lines")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(module, "_gpu", lambda: "none")


def runtime(cache, case, precision="fp32", points=((1, 16), (4, 8)), **settings):
    workload = [WorkloadPoint(batch=batch, seq_len=length if case.family == "bert" else None) for batch, length in points]
    target = Target(device="gpu", runtime="tensorrt", precision=precision, tensorrt=TensorRtSettings(**settings))
    return runtime_for(target, Shapes(workload, case.task.axis_limits()), cache)


@pytest.fixture
def exported(case, tmp_path):
    def export(plan="ragged"):
        model = copy.deepcopy(case.model)
        shrink_(model, plan_keeping(model, PLANS[plan]))
        export_onnx(model, case.task, tmp_path / f"{plan}.onnx")
        return tmp_path / f"{plan}.onnx"

    return export


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("plan", ["ragged", "layer vanished"])
def test_pruned_models_build_in_every_precision(exported, case, plan, precision, tmp_path):
    runtime(tmp_path, case, precision).compile(exported(plan), tmp_path / "model.plan")
    assert (tmp_path / "model.plan").stat().st_size > 10_000


def test_the_same_is_built_once_and_anything_else_anew(exported, case, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(module.TensorRt, "_build", lambda self, *_: built.append(self) or b"a plan")
    graph, out = exported(), tmp_path / "model.plan"
    runtime(tmp_path, case).compile(graph, out)
    runtime(tmp_path, case).compile(graph, out)
    assert len(built) == 1
    assert out.read_bytes() == b"a plan"
    others = [
        runtime(tmp_path, case, "fp16"), runtime(tmp_path, case, points=((2, 16),)),
        runtime(tmp_path, case, optimization_level=0), runtime(tmp_path, case, version_compatible=True),
    ]  # fmt: skip
    for other in others:
        other.compile(graph, out)
    runtime(tmp_path, case).compile(exported("layer vanished"), out)
    assert len(built) == 6


def test_every_workload_point_has_a_profile_and_one_takes_the_rest(exported, case, tmp_path):
    graph = onnx.load(exported()).graph
    found = runtime(tmp_path, case, points=((1, 16), (16, 8))).profiles(graph)
    name = graph.input[0].name
    sizes = [tuple(shape[:2] for shape in ranges[name]) for ranges in found]
    if case.family == "bert":
        assert sizes == [((1, 1), (1, 16), (1, 16)), ((1, 1), (16, 8), (16, 8)), ((1, 1), (1, 16), (32, 32))]
    else:
        assert sizes == [((1, 3), (1, 3), (1, 3)), ((1, 3), (16, 3), (16, 3)), ((1, 3), (16, 3), (32, 3))]


def test_what_the_parser_refuses_is_named_with_its_module(exported, case, tmp_path):
    graph = onnx.load(exported())
    node = next(node for node in graph.graph.node if node.op_type == "Softmax")
    node.op_type, node.domain = "NothingThatExists", "nowhere"
    del node.attribute[:]
    graph.opset_import.append(helper.make_opsetid("nowhere", 1))
    onnx.save(graph, tmp_path / "strange.onnx")
    with pytest.raises(InputError) as caught:
        runtime(tmp_path, case)._build(tmp_path / "strange.onnx", graph.graph, [])
    message = str(caught.value)
    assert "NothingThatExists" in message
    assert node.name in message
    assert "attention" in message
    assert "\n" not in message


def test_options_reach_the_builder(exported, case, tmp_path):
    made = runtime(
        tmp_path, case, optimization_level=1, workspace_gb=0.5, version_compatible=True, strip_weights=True
    )
    config = trt.Builder(made.log).create_builder_config()
    made._configure(config)
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 2**29
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert config.get_flag(trt.BuilderFlag.STRIP_PLAN)
    assert not config.get_flag(trt.BuilderFlag.TF32)


def test_a_graph_that_trt_cannot_build_leaves_nothing(case, tmp_path):
    ins, outs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])] for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Unheard", ["x"], ["y"], domain="of")], "strange", ins, outs)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("of", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(InputError, match="Unheard"):
        runtime(tmp_path / "cache", case).compile(tmp_path / "plain.onnx", tmp_path / "model.plan")
    assert not (tmp_path / "model.plan").exists()
    assert not list((tmp_path / "cache").rglob("*.plan"))
