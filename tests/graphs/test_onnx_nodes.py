import onnx
import pytest
from tiny import layers_of

from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.graphs.onnx_nodes import modules_of

pytestmark = pytest.mark.usefixtures("shared_exports")


def test_every_product_belongs_to_the_module_whose_weights_it_reads(case, tmp_path):
    export_onnx(case.model, case.task, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    owners = modules_of(graph)
    after = {name: node for node in graph.node for name in node.input}
    weights = {entry.name for entry in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    assert len(products) == 6 * len(layers_of(case.model))
    for node in products:
        bias = next(name for name in after[node.output[0]].input if name in weights)
        assert owners[node.name] == bias.removesuffix(".bias")


def test_a_softmax_belongs_to_the_attention_that_feeds_it(case, tmp_path):
    export_onnx(case.model, case.task, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    owners = modules_of(graph)
    found = [owners[node.name] for node in graph.node if node.op_type == "Softmax"]
    layers = len(layers_of(case.model))
    assert len(found) == layers
    for layer, module in enumerate(found):
        assert f".{layer}.attention" in module
