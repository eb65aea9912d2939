"""Blocks in lower precision, the whole way: profile, prune, export, validate."""

import numpy as np
import onnx
import pytest
import torch
from steady import answer, cli, install

from prune2deploy import load
from prune2deploy.models.checkpoint import read_pruned_record


@pytest.fixture
def started(request, monkeypatch, tmp_path):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)

    def start(model, data, *more):
        begin = ["--batch", 2, "--threads", 1, "--samples", 16, *more]
        answer(cli("init", request.getfixturevalue(model), "--data", request.getfixturevalue(data), *begin, "--json"))

    return start


@pytest.mark.slow
def test_the_search_mixes_what_pays(started, tmp_path):
    started("bert_dir", "text_data", "--seq-len", 8, "--precision", "auto")
    table = answer(cli("profile", "--json"))
    assert ".onnxruntime-1t.auto.json" in table["path"]
    answer(cli("prune", "--speedup", 1.8, "--json"))
    record = read_pruned_record(tmp_path / "pruned")
    assert record.plan.precisions
    assert [stage.stage for stage in record.provenance.stages][-1] == "rounding"
    said = answer(cli("export", "--name", "bert", "--json"))
    assert said["verdict"] == "passed"
    graph = onnx.load(tmp_path / "model_repository/bert/1/model.onnx").graph
    assert any(entry.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for entry in graph.initializer)
    assert answer(cli("validate", "model_repository/bert", "--json"))["passed"]
    model = load(tmp_path / "pruned")
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[2, 9, 11, 3]])).logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["k-prune", "hawq"])
def test_one_precision_for_all(started, tmp_path, method):
    started("bert_dir", "text_data", "--seq-len", 8, "--precision", "int8-dynamic")
    answer(cli("profile", "--json"))
    answer(cli("prune", "--speedup", 3, "--method", method, "--json"))
    plan = read_pruned_record(tmp_path / "pruned").plan
    assert plan.precisions == {key: "int8-dynamic" for key, width in plan.widths_by_key().items() if width}
    assert answer(cli("export", "--name", "bert", "--json"))["verdict"] == "passed"
    kinds = {node.op_type for node in onnx.load(tmp_path / "model_repository/bert/1/model.onnx").graph.node}
    assert "MatMulInteger" in kinds
    assert np.isfinite(answer(cli("validate", "model_repository/bert", "--json"))["measured_ms"])
