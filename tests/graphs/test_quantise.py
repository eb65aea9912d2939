"""Products in lower precision: the graph in ONNX Runtime against PyTorch, which rounds by itself."""

import copy

import numpy as np
import onnx
import pytest
import tiny
import torch

from prune2deploy.config import Target
from prune2deploy.errors import CheckFailedError
from prune2deploy.graphs.onnx_model import export_onnx, exported_form
from prune2deploy.graphs.quantise import quantise
from prune2deploy.models.family import blocks_of
from prune2deploy.models.input_rounding import round_inputs_
from prune2deploy.models.plan import Plan
from prune2deploy.models.precisions import INSIDE, export_rounded, paths_in_less
from prune2deploy.models.surgery import shrunk
from prune2deploy.precisions import FORMATS, Rounding, grid_of
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.predict import torch_run

RANGE = (-3.0, 5.0)


def in_less(case, precisions):
    """(a pruned model whose blocks of these keys are rounded, its roundings)."""
    everything = {block: range(max(1, block.units - block.layer)) for block in blocks_of(case.model)}
    plan = Plan.of(tiny.signature_of(case.model), everything, precisions)
    model = copy.deepcopy(shrunk(case.model, plan))
    roundings = {}
    for path, precision in paths_in_less(model, plan, blocks_of(case.model)).items():
        module = model.get_submodule(path)
        weight = module.weight.numpy()
        grid = grid_of(weight, precision, narrow=False)
        module.weight = torch.nn.Parameter(torch.from_numpy(grid.nearest(weight)).float(), requires_grad=False)
        roundings[path] = Rounding(precision, grid.scale, *(RANGE if grid.format.inputs == "static" else (0.0, 0.0)))
    round_inputs_(model, roundings)
    return model, roundings


def keys_of(case):
    return [block.key for block in blocks_of(case.model)]


@pytest.mark.parametrize("precision", list(FORMATS))
def test_the_graph_computes_what_pytorch_does(case, tmp_path, precision):
    model, roundings = in_less(case, dict.fromkeys(keys_of(case), precision))
    export_rounded(model, case.task, roundings, tmp_path / "model.onnx")
    engine = runtime_for(Target(threads=1)).load(tmp_path / "model.onnx")
    inputs = case.samples.batch(range(6)).inputs
    got, wanted = engine.run(inputs)["logits"], torch_run(model, case.task)(inputs)["logits"]
    plain = torch_run(case.model, case.task)(inputs)["logits"]
    assert np.abs(got - wanted).max() < 2e-3 * np.abs(wanted).max()
    assert np.abs(plain - wanted).max() > 0.01 * np.abs(wanted).max()


def test_blocks_of_different_precisions_in_one_graph(case, tmp_path):
    precisions = {key: list(FORMATS)[index % 5] for index, key in enumerate(keys_of(case)) if index % 6}
    model, roundings = in_less(case, precisions)
    export_rounded(model, case.task, roundings, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert {"MatMulInteger", "QuantizeLinear", "MatMulNBits"} <= set(kinds)
    engine = runtime_for(Target(threads=1)).load(tmp_path / "model.onnx")
    for indices in ([0], [1, 2, 3]):
        inputs = case.samples.batch(indices).inputs
        wanted = torch_run(model, case.task)(inputs)["logits"]
        assert np.abs(engine.run(inputs)["logits"] - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_weights_are_stored_small_and_inputs_rounded_once(case, tmp_path):
    first = blocks_of(case.model)[0].key
    for precision, kind in (("int8-dynamic", "DynamicQuantizeLinear"), ("int8", "QuantizeLinear")):
        model, roundings = in_less(case, {first: precision})
        export_rounded(model, case.task, roundings, tmp_path / "model.onnx")
        graph = onnx.load(tmp_path / "model.onnx").graph
        assert [node.op_type for node in graph.node].count(kind) == 2  # of query, key and value; of the output projection
        small = [entry for entry in graph.initializer if entry.data_type == onnx.TensorProto.INT8]
        assert len(small) == len(roundings) == 4
        assert not {tuple(entry.dims) for entry in graph.initializer if entry.data_type == 1} & {(32, 32)} or len(small) == 4


def test_a_layer_that_is_not_in_the_graph_is_told(case, tmp_path):
    export_onnx(case.model, case.task, tmp_path / "model.onnx")
    other = copy.deepcopy(case.model)
    path = next(iter(in_less(case, {keys_of(case)[0]: "int8"})[1]))
    with torch.no_grad():
        other.get_submodule(path).weight.mul_(1.5)
    rounding = grid_of(other.get_submodule(path).weight.numpy(), "int8", False)
    with pytest.raises(CheckFailedError, match=f"the weight of {INSIDE}{path} was not found"):
        quantise(
            tmp_path / "model.onnx", exported_form(other, case.task), {INSIDE + path: rounding}, tmp_path / "out.onnx"
        )
    assert not (tmp_path / "out.onnx").exists()
