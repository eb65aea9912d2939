"""What people use instead, beside ours."""

import json

import pytest
from steady import answer, cli, install, refused

from prune2deploy.comparison import contenders


@pytest.fixture
def started(bert_dir, text_data, monkeypatch, tmp_path):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    start = ["--batch", 2, "--seq-len", 8, "--threads", 1, "--samples", 16, "--precision", "auto"]
    answer(cli("init", bert_dir, "--data", text_data, *start, "--json"))


@pytest.mark.slow
def test_everything_is_measured_against_the_dense_model_in_fp32(started, tmp_path):
    answer(cli("profile", "--json"))
    answer(cli("prune", "--speedup", 1.8, "--json"))
    answer(cli("prune", "--speedup", 1.5, "--out", "narrower", "--method", "fisher", "--json"))
    found = answer(cli("compare", "--pruned", "pruned", "--pruned", "narrower", "--json"))
    rows = found["rows"]
    first = rows[0]
    assert (first["model"], first["how"], first["ratio"], first["lost"]) == ("dense", "ONNX Runtime fp32", 1.0, 0.0)
    assert not any("failed" in row for row in rows), [row for row in rows if "failed" in row]
    hows = {model: [row["how"] for row in rows if row["model"] == model] for model in ("dense", "pruned", "narrower")}
    assert hows["pruned"] == ["prune2deploy, onnxruntime"]  # in its own precisions
    assert hows["dense"] == hows["narrower"]
    usual = {"ONNX Runtime dynamic int8", "ONNX Runtime static int8 (S8S8, per channel)", "OpenVINO fp32"}
    assert usual <= set(hows["dense"])
    assert all(row["megabytes"] > 0 and row["ms"] > 0 for row in rows)
    dynamic = next(row for row in rows if row["how"] == "ONNX Runtime dynamic int8")
    assert dynamic["megabytes"] < first["megabytes"]
    stored = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert stored["rows"] == rows
    table = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert table.count("\n") == len(rows) + 2
    assert "**prune2deploy, onnxruntime**" in table


def test_what_fails_is_a_row(started, monkeypatch, tmp_path):
    def fails(graph, folder, samples):
        raise RuntimeError("no such kernel\nat all")

    plain = contenders.contenders_of
    broken = contenders.Contender("Broken", fails)
    monkeypatch.setattr("prune2deploy.comparison.stage.contenders_of", lambda project: [plain(project)[0], broken])
    found = answer(cli("compare", "--json"))
    assert [row["how"] for row in found["rows"]] == ["ONNX Runtime fp32", "Broken"]
    assert found["rows"][1]["failed"] == "fails: no such kernel"
    assert "| dense | Broken | fails: no such kernel |" in (tmp_path / "comparison.md").read_text(encoding="utf-8")


def test_what_is_no_pruned_model_is_refused(started, tmp_path):
    (tmp_path / "other").mkdir()
    refused(cli("compare", "--pruned", "other"), "no prune2deploy.json here")
