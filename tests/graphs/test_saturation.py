"""Products of 8-bit numbers on processors that add them up in 16 bits, and what 7-bit weights do about it."""

import numpy as np
import onnx
import pytest

from prune2deploy.config import Target
from prune2deploy.exporting.recheck import saturation_checks
from prune2deploy.precisions import grid_of
from prune2deploy.runtimes.base import DeviceInfo
from prune2deploy.runtimes.processor_kind import instructions, saturates
from prune2deploy.runtimes.registry import runtime_for

INPUTS, OUTPUTS = 64, 16
LOUD = np.full((1, INPUTS), 1.0, dtype=np.float32)  # becomes 255 everywhere
WEIGHT = np.full((OUTPUTS, INPUTS), 0.5, dtype=np.float32)  # becomes the largest whole number everywhere


def codes(narrow):
    return grid_of(WEIGHT, "int8", narrow, (1.0,)).codes(WEIGHT)


def as_without_vnni(activations, weights):
    """What VPMADDUBSW makes of [inputs] unsigned and [outputs, inputs] signed: pairs are added up in 16 bits."""
    products = activations.astype(np.int64) * weights.astype(np.int64)
    pairs = products.reshape(len(weights), -1, 2).sum(-1)
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(-1)


@pytest.mark.parametrize("narrow", [False, True])
def test_weights_of_7_bits_come_out_right_where_8_bits_saturate(narrow):
    activations = np.full(INPUTS, 255, dtype=np.uint8)
    weights = codes(narrow)
    exact = weights.astype(np.int64) @ activations.astype(np.int64)
    assert (as_without_vnni(activations, weights) == exact).all() == narrow
    if not narrow:
        assert as_without_vnni(activations, weights).max() < 0.6 * exact.max()


@pytest.mark.parametrize("narrow", [False, True])
def test_this_processor_is_known_for_what_it_is(narrow, tmp_path):
    """The real kernel: wrong where it saturates and nothing is done, right otherwise."""
    weights = codes(narrow)
    names = {"x": ("x", 1, [1, INPUTS]), "y": ("y", 1, [1, OUTPUTS])}
    values = [onnx.helper.make_tensor_value_info(*entry) for entry in names.values()]
    nodes = [
        onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        onnx.helper.make_node("MatMulInteger", ["q", "w", "z"], ["whole"]),
        onnx.helper.make_node("Cast", ["whole"], ["float"], to=1),
        onnx.helper.make_node("Mul", ["float", "s"], ["y"]),
    ]
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(weights.T), "w")]
    graph = onnx.helper.make_graph(nodes, "products", values[:1], values[1:], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    got = runtime_for(Target(threads=1)).load(tmp_path / "m.onnx").run({"x": LOUD})["y"]
    exact = weights.astype(np.float64).sum(1)
    right = np.allclose(got, exact, rtol=1e-5)
    assert right == (narrow or not saturates(instructions()))


@pytest.mark.parametrize(
    ("found", "expected"),
    [(["AVX2"], True), (["AVX2", "AVX-512"], True), (["AVX2", "AVX VNNI"], False), (["AVX-512", "AVX-512 VNNI"], False),
     (["NEON dot product"], False), ([], False)],
)  # fmt: skip
def test_which_processors_saturate(found, expected):
    assert saturates(found) == expected


@pytest.mark.parametrize(
    ("wide", "here", "passed"), [(True, ["AVX2"], False), (True, ["AVX2", "AVX VNNI"], True), (False, ["AVX2"], None)]
)
def test_a_package_says_where_its_products_saturate(wide, here, passed):
    class Elsewhere:
        def device(self):
            return DeviceInfo(kind="cpu", name="other", cores=1, memory_gb=1, instructions=here)

    manifest = type("Manifest", (), {"wide_products": wide})()
    checks = saturation_checks(manifest, Elsewhere())
    if passed is None:
        assert checks == []
        return
    [check] = checks
    assert check.passed == passed
    if not passed:
        assert "without VNNI" in check.detail
        assert "prune --table" in check.detail
