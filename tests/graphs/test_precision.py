import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny import PLANS, plan_keeping

from prune2deploy.errors import CheckFailedError
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.graphs.precision import cast
from prune2deploy.models.surgery import shrink_

pytestmark = pytest.mark.usefixtures("shared_exports")

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
ROUNDING = {"fp16": 2.0**-10, "bf16": 2.0**-7}


@pytest.fixture
def model(case):
    pruned = copy.deepcopy(case.model)
    with torch.no_grad():
        for name, tensor in pruned.named_parameters():
            if "classifier" not in name:
                tensor.mul_(0.3)  # what a trained model's activations are like: tens, not thousands
    shrink_(pruned, plan_keeping(pruned, PLANS["ragged"]))
    return pruned


@pytest.fixture(params=["fp16", "bf16"])
def halved(request, model, case, tmp_path):
    export_onnx(model, case.task, tmp_path / "full.onnx")
    cast(tmp_path / "full.onnx", request.param, tmp_path / "half.onnx")
    return request.param, tmp_path / "half.onnx"


def run(precision, path, inputs):
    if precision == "bf16":  # ONNX Runtime has no bfloat16 kernels for the CPU
        return ReferenceEvaluator(str(path)).run(None, inputs)[0]
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def elem_types(path):
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return graph, types | {entry.name: entry.data_type for entry in graph.initializer}


def test_answers_are_those_of_the_model_up_to_rounding(halved, model, case):
    precision, path = halved
    batch = case.samples.batch(list(range(6)))
    with torch.no_grad():
        wanted = model(**batch.tensors()).logits.numpy()
    got = run(precision, path, batch.inputs)
    assert got.dtype == np.float32
    difference = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert 0 < difference < 10 * ROUNDING[precision]


def test_products_are_half_and_norms_and_softmax_are_not(halved):
    precision, path = halved
    graph, types = elem_types(path)
    seen = {}
    for node in graph.node:
        seen.setdefault(node.op_type, set()).add(types[node.input[0]])
    assert seen["MatMul"] == seen["Gemm"] == {HALF[precision]}
    assert seen["Softmax"] == seen["LayerNormalization"] == {TensorProto.FLOAT}


def test_weights_take_half_the_room(halved, tmp_path):
    _, path = halved
    full, half = (onnx.load(p).graph.initializer for p in (tmp_path / "full.onnx", path))
    sizes = [sum(numpy_helper.to_array(entry).nbytes for entry in entries if entry.data_type != TensorProto.INT64)
             for entries in (full, half)]  # fmt: skip
    assert sizes[1] < 0.65 * sizes[0]


def test_inputs_and_outputs_keep_names_shapes_and_types(halved, tmp_path):
    _, path = halved
    full, half = (onnx.load(p).graph for p in (tmp_path / "full.onnx", path))
    assert [value.SerializeToString() for value in half.input] == [value.SerializeToString() for value in full.input]
    assert [value.SerializeToString() for value in half.output] == [value.SerializeToString() for value in full.output]


def test_fp32_is_the_graph_as_it_was(model, case, tmp_path):
    export_onnx(model, case.task, tmp_path / "full.onnx")
    cast(tmp_path / "full.onnx", "fp32", tmp_path / "same.onnx")
    assert onnx.load(tmp_path / "same.onnx") == onnx.load(tmp_path / "full.onnx")


def save(nodes, weights, path, shape=(2, 2)):
    graph = helper.make_graph(
        nodes, "made", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(len(shape))])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_numbers_beyond_the_range_of_float16_stay_in_full_precision(tmp_path):
    weights = {"huge": np.float32([[1e6, 0], [0, 2e6]]), "small": np.float32([[1e-6, 0], [0, 1e-6]])}
    nodes = [helper.make_node("MatMul", ["x", "huge"], ["large"]), helper.make_node("MatMul", ["large", "small"], ["y"])]
    save(nodes, weights, tmp_path / "full.onnx")
    cast(tmp_path / "full.onnx", "fp16", tmp_path / "half.onnx")
    got = run("fp16", tmp_path / "half.onnx", {"x": np.eye(2, dtype=np.float32)})
    np.testing.assert_allclose(got, [[1, 0], [0, 2]], rtol=1e-6)


def test_a_mask_without_end_masks(tmp_path):
    weights = {"none": np.float32(0), "never": np.float32(-3.4028235e38), "scale": np.float32(3)}
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scores"]), helper.make_node("Cast", ["x"], ["valid"], to=TensorProto.BOOL),
        helper.make_node("Where", ["valid", "none", "never"], ["mask"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]), helper.make_node("Softmax", ["masked"], ["y"], axis=-1),
    ]  # fmt: skip
    save(nodes, weights, tmp_path / "full.onnx")
    cast(tmp_path / "full.onnx", "fp16", tmp_path / "half.onnx")
    got = run("fp16", tmp_path / "half.onnx", {"x": np.float32([[1, 0], [1, 1]])})
    np.testing.assert_allclose(got, [[1, 0], [0.5, 0.5]], atol=1e-3)
    _, types = elem_types(tmp_path / "half.onnx")
    assert types["scores"] == TensorProto.FLOAT16


def test_a_value_used_in_both_precisions_is_cast_once(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["a"]),
        helper.make_node("Exp", ["h"], ["b"]), helper.make_node("Add", ["h", "h"], ["c"]),
        helper.make_node("Sum", ["a", "b", "c"], ["y"]),
    ]  # fmt: skip
    save(nodes, {"w": np.float32([[1, 2], [0, 1]])}, tmp_path / "full.onnx")
    cast(tmp_path / "full.onnx", "fp16", tmp_path / "half.onnx")
    graph = onnx.load(tmp_path / "half.onnx").graph
    assert sum(node.op_type == "Cast" and node.input[0] == "h" for node in graph.node) == 1
    h = np.float32([[1, 2], [0.5, 1.5]])
    softmax = np.exp(h) / np.exp(h).sum(-1, keepdims=True)
    got = run("fp16", tmp_path / "half.onnx", {"x": np.float32([[1, 0], [0.5, 0.5]])})
    np.testing.assert_allclose(got, softmax + np.exp(h) + 2 * h, rtol=2e-3)


def test_bfloat16_leaves_operators_that_cannot_take_it(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    save(nodes, {"w": np.ones((1, 1, 2, 2), dtype=np.float32)}, tmp_path / "full.onnx", (1, 1, 4, 4))
    cast(tmp_path / "full.onnx", "bf16", tmp_path / "half.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "half.onnx").graph.node] == ["Conv"]


def test_a_graph_within_a_graph_is_refused(tmp_path):
    inner = [
        helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], name,
                          [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
        for name in ("a", "b")
    ]  # fmt: skip
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=inner[0], else_branch=inner[1])]
    save(nodes, {"flag": np.array(True)}, tmp_path / "full.onnx")
    with pytest.raises(CheckFailedError, match="a graph of its own"):
        cast(tmp_path / "full.onnx", "fp16", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()
