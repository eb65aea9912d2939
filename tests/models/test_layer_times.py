import onnx
import pytest

from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.graphs.onnx_nodes import modules_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.layer_times import OTHER, block_key, block_ms

pytestmark = pytest.mark.usefixtures("shared_exports")


def test_every_product_of_a_layer_counts_for_its_block(case, tmp_path):
    export_onnx(case.model, case.task, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    blocks = blocks_of(case.model)
    modules = modules_of(graph)
    layers = [{"Name": f"fused {node.name}", "Metadata": f"[ONNX Layer: {node.name}]"} for node in graph.node]
    spent = {f"fused {node.name}": 1.0 for node in graph.node if node.op_type in ("MatMul", "LayerNormalization")}
    found = block_ms(spent, layers, modules, blocks)
    products = {"attention": 6, "ffn": 2}  # three projections in, two of the attention itself, one out
    assert {block.key: found[block.key] for block in blocks} == {
        block.key: products[block.kind] + 1 for block in blocks
    }
    assert sum(found.values()) == sum(spent.values())
    assert found[OTHER] == 1  # a norm before the layers, or behind them


def test_a_fused_layer_counts_for_the_block_with_most_of_it(case):
    blocks = blocks_of(case.model)
    layer, ffn = f"model.{blocks[2].root}", "intermediate" if case.family == "bert" else "mlp"
    modules = {"a": f"{layer}.attention.x", "b": f"{layer}.{ffn}.x", "c": f"{layer}.{ffn}.y", "e": "model.embeddings"}
    layers = [{"Name": "one", "Metadata": "[ONNX Layer: a]\x1f[ONNX Layer: b]\x1f[ONNX Layer: c]"},
              {"Name": "two", "Metadata": "[ONNX Layer: e]"}, {"Name": "copy"}]  # fmt: skip
    found = block_ms({"one": 3.0, "two": 0.5, "copy": 0.25, "unheard of": 0.125}, layers, modules, blocks)
    assert found["1.ffn"] == 3.0
    assert found[OTHER] == 0.875
    assert sum(found.values()) == 3.875


@pytest.mark.parametrize("module", ["bert.pooler.dense", "classifier", "bert.embeddings.LayerNorm", "vit.layernorm"])
def test_what_is_outside_of_layers_belongs_to_no_block(case, module):
    assert block_key(module, blocks_of(case.model)) is None
