import hashlib
import html
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from steady import BLOCKS, CANDIDATE, FINAL, PADDED_MS, PADDING, answer, cli, files_in, refused
from tritonclient.grpc import model_config_pb2

import prune2deploy
from prune2deploy import closed_loop
from prune2deploy.budget import Budget
from prune2deploy.errors import BudgetMissedError, UnstableMeasurementError
from prune2deploy.exporting import recheck
from prune2deploy.models.checkpoint import load_dense, read_pruned_record
from prune2deploy.pruning.workbench import Workbench
from prune2deploy.repository.manifest import read_manifest, write_sealed
from prune2deploy.tasks.registry import task_of
from prune2deploy.validation import assess
from prune2deploy.validation.html import render
from prune2deploy.validation.record import Check, Report

pytest_plugins = ("made",)

INPUTS = {
    "bert": ["input_ids", "attention_mask"],
    "pairs": ["input_ids", "attention_mask", "token_type_ids"],
    "vit": ["pixel_values"],
}
PROCESSOR = {
    "bert": ["tokenizer.json", "tokenizer_config.json"],
    "pairs": ["tokenizer.json", "tokenizer_config.json"],
    "vit": ["preprocessor_config.json"],
}


def config_of(package):
    return text_format.Parse((package / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def report_of(package):
    return Report.model_validate_json((package / "1" / "report.json").read_text(encoding="utf-8"))


# what a run leaves


def test_package_has_everything_and_nothing_else(made):
    found = {name for name, content in files_in(made.package).items() if content is not None}
    assert found == {
        "1/model.onnx", "config.pbtxt", "labels.txt", "1/manifest.json", "1/reference.safetensors", "1/report.html",
        "1/report.json", *(f"1/processor/{name}" for name in PROCESSOR[made.family]),
        *(f"warmup/workload.{name}" for name in INPUTS[made.family]),
    }  # fmt: skip
    model = made.project.resolve(made.project.model)
    for name in PROCESSOR[made.family]:
        assert (made.version / "processor" / name).read_bytes() == (model / name).read_bytes()
    assert not list(made.root.rglob("*.partial"))
    assert not list((made.project.state / "pruned").iterdir()), "the pruned model is not needed any more"


def test_manifest_has_the_hash_of_every_other_file(made):
    manifest = json.loads((made.version / "manifest.json").read_text(encoding="utf-8"))
    expected = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files_in(made.package).items()
        if content is not None and name != "1/manifest.json"
    }
    assert {f"1/{name}": digest for name, digest in manifest["files"].items()} | manifest["shared"] == expected
    assert manifest["verdict"] == "passed"
    assert manifest["weights_sha256"] == hashlib.sha256((made.pruned / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["speedup"] == pytest.approx(manifest["dense_ms"] / manifest["measured_ms"])


def test_triton_configuration_describes_the_graph(made):
    config = config_of(made.package)
    graph = onnx.load(made.package / "1" / "model.onnx").graph
    assert config.name == made.package.name
    assert [tensor.name for tensor in config.input] == [value.name for value in graph.input] == INPUTS[made.family]
    assert [tensor.name for tensor in config.output] == [value.name for value in graph.output] == ["logits"]
    assert list(config.output[0].dims) == [3]
    assert config.max_batch_size == 8
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert config.model_warmup[0].batch_size == 2
    labels = (made.package / config.output[0].label_filename).read_text(encoding="utf-8")
    assert labels.split() == ["art", "sport", "war"]


def test_report_says_what_was_reached(made):
    report, page = report_of(made.package), (made.version / "report.html").read_text(encoding="utf-8")
    assert report.verdict == "passed"
    assert made.said["run"] == {
        "path": str(made.package.relative_to(made.root)), "version": 1, **report.model_dump(mode="json", exclude_none=True)
    }  # fmt: skip
    assert report.headline in page
    lengths = "any batch" if made.family == "vit" else "any batch, any length"
    assert {check.name for check in report.checks} == {
        "ONNX equals PyTorch", lengths, "budget of 1.5× speedup", "Triton entry", "valid ONNX",
        "dense model as transformers' pipeline has it", "package answers as transformers' pipeline",
    }  # fmt: skip
    assert 1.5 <= report.speedup <= 1.5 / 0.9
    assert report.latency_pruned.ms <= report.limit_ms == pytest.approx(report.latency_dense.ms / 1.5)
    assert report.prediction_error == pytest.approx(0, abs=1e-3)
    plan = read_pruned_record(made.pruned).plan
    assert report.widths == plan.widths_by_key()
    assert report.parameters_pruned < report.parameters_dense
    assert {stage.stage for stage in report.stages} >= {"dense", "search"}
    assert set(report.seconds) >= {"profile", "calibration", "search", "export", "validation"}


def blocks_by_kind(plan):
    from synthetic import blocks_in

    blocks = blocks_in(plan.signature)
    return {kind: [block for block in blocks if block.kind == kind] for kind in ("attention", "ffn")}


def test_graph_does_not_tell_where_it_was_made(made):
    content = (made.package / "1" / "model.onnx").read_bytes()
    assert str(made.origin).encode() not in content
    assert b"site-packages" not in content
    assert b".py" not in content


@pytest.mark.parametrize("size", [1, 5], ids=["one by one", "in batches"])
def test_graph_answers_as_the_pruned_model_does(made, size):
    dense = load_dense(made.project.resolve(made.project.model))
    small = prune2deploy.load(made.pruned)
    task = task_of(made.project, made.project.resolve(made.project.model), dense.config)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.package / "1" / "model.onnx", options, ["CPUExecutionProvider"])
    away = 0.0
    for _, batch in task.evaluation().batches(size):
        got = session.run(None, batch.inputs)[0]
        with torch.no_grad():
            wanted, before = small(**batch.tensors()).logits.numpy(), dense(**batch.tensors()).logits.numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
        away = max(away, float(np.abs(got - before).max()))
    assert away > 0.01, "pruning has changed something"


def test_package_passes_its_own_validation(made, clock):
    result = prune2deploy.validate(made.package, made.project)
    assert result.passed
    assert result.not_checked == []
    assert result.speedup == pytest.approx(report_of(made.package).speedup)
    assert [check.name for check in result.checks] == [
        "files", "Triton entry", "valid ONNX", "reference outputs", "task metric",
        "budget of 1.5× speedup",
    ]  # fmt: skip

    away = prune2deploy.validate(made.package)
    assert away.passed
    assert away.speedup is None
    assert any(reason.startswith("task metric and speedup: no project file") for reason in away.not_checked)


def test_what_is_timed_has_run_no_other_shape(work_pruned, clock):
    package = answer(cli("export", "--json"))["path"]
    answer(cli("validate", package, "--json"))
    assert [asked.split(",")[0] for asked in clock.asked] == ["plain against fused graph", FINAL, "measuring latency"]
    assert clock.used == []


def test_every_stage_times_inputs_without_padding_in_sessions_without_a_past(made):
    assert {asked.split(" at ")[0].split(",")[0] for asked in made.asked} >= {CANDIDATE, FINAL}
    assert all(asked.startswith(PADDING) for asked in made.padded)
    assert made.used == []


def test_what_padding_costs_is_measured_once_and_told(bert_made, vit_made):
    cost = bert_made.said["profile"]["padding_cost"]["batch 2 × 8"]
    assert cost == pytest.approx(PADDED_MS / bert_made.said["profile"]["dense_ms"], rel=1e-2)
    assert bert_made.asked.count(f"{PADDING} at batch 2 × 8") == 1
    note = f"one padded token in every row makes batch 2 × 8 {100 * cost:.0f} % slower"
    assert note in (bert_made.version / "report.html").read_text(encoding="utf-8")
    [point] = report_of(vit_made.package).table_points
    assert point.padding_cost is None, "images have no padding"


def test_engines_measured_against_each_other_have_run_the_same(work, clock):
    points = ("--batch", 1, "--batch", 2, "--seq-len", 8, "--seq-len", 16)
    answer(cli("profile", *points, "--json"))
    answer(cli("prune", "--speedup", 1.5, *points, "--json"))
    assert clock.count(CANDIDATE) >= 2
    assert clock.uneven == []
    assert all(asked.startswith(PADDING) for asked in clock.padded)


def test_an_engine_that_scores_otherwise_than_at_export_does_not_validate(made, clock, tmp_path):
    package = shutil.copytree(made.package, tmp_path / made.package.name)
    manifest = read_manifest(package / "1")
    other = {"value": manifest.metric_pruned.value - 30, "standard_error": 5}
    changed = manifest.model_copy(update={"metric_pruned": manifest.metric_pruned.model_copy(update=other)})
    write_sealed(changed, package / "1")
    result = prune2deploy.validate(package, made.project)
    assert [check.name for check in result.checks if not check.passed] == ["task metric"]


@pytest.mark.parametrize(("away", "passes"), [(1, True), (2, False)])
def test_one_sample_that_answers_otherwise_is_no_other_score_though_the_error_is_zero(
    away, passes, bert_made, clock, tmp_path
):
    package = shutil.copytree(bert_made.package, tmp_path / "package" / bert_made.package.name)
    manifest = read_manifest(package / "1")
    there = manifest.metric_pruned
    changed = there.model_copy(update={"value": there.value + away * 100 / there.n, "standard_error": 0.0})
    write_sealed(manifest.model_copy(update={"metric_pruned": changed}), package / "1")
    assert prune2deploy.validate(package, bert_made.project).passed == passes


def test_what_was_lost_is_told_with_its_standard_error(made):
    report, manifest = report_of(made.package), read_manifest(made.version)
    assert report.lost.points == pytest.approx(report.metric_dense.value - report.metric_pruned.value)
    assert report.lost.standard_error > 0
    assert manifest.lost == report.lost
    assert f"± {report.lost.standard_error:.2f} points" in report.headline
    for stage in report.stages[1:]:
        assert stage.lost_standard_error > 0


def test_reports_and_manifests_of_before_are_read(made, tmp_path):
    stored = json.loads((made.version / "report.json").read_text(encoding="utf-8"))
    for new in ("lost", "warnings"):
        del stored[new]
    for stage in stored["stages"]:
        stage.pop("lost_standard_error", None)
    assert Report.model_validate(stored).lost is None
    assert "standard errors ±" in render(Report.model_validate(stored))
    manifest = json.loads((made.version / "manifest.json").read_text(encoding="utf-8"))
    del manifest["lost"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert read_manifest(tmp_path).lost is None


def test_a_table_that_is_there_is_not_measured_again(bert_made, pairs_made, vit_made):
    assert sum(asked.startswith(BLOCKS) for asked in bert_made.asked) == len(BLOCKS)
    assert not any(asked.startswith(BLOCKS) for asked in pairs_made.asked)
    assert sum(asked.startswith(BLOCKS) for asked in vit_made.asked) == len(BLOCKS)


# the commands one by one


def test_each_command_answers_in_json(work, bert_made, clock):
    name = bert_made.package.name
    assert bert_made.said["init"]["path"].endswith("prune2deploy.toml")
    assert bert_made.said["init"]["project"] == bert_made.project.model_dump(mode="json", exclude_none=True)
    table = bert_made.said["profile"]
    assert json.loads((bert_made.root / table["path"]).read_text(encoding="utf-8"))["median_error"] == table["median_error"]
    assert table["dense_ms"] > table["fixed_ms"] > 0

    pruned = answer(cli("prune", "--speedup", 1.5, "--json"))
    assert pruned["path"] == "pruned"
    assert pruned["plan"] == read_pruned_record(bert_made.pruned).plan.model_dump(), "as `run` had it"
    assert pruned["provenance"]["budget"] == {"kind": "speedup", "value": 1.5}

    report = answer(cli("export", "--json"))
    assert (report["verdict"], report["path"]) == ("passed", f"model_repository/{name}")
    assert report["widths"] == bert_made.said["run"]["widths"]

    found = answer(cli("validate", report["path"], "--json"))
    assert found["passed"] is True
    assert found["speedup"] == pytest.approx(report["speedup"])

    machine = answer(cli("doctor", "--json"))
    assert {each["name"] for each in machine["capabilities"]} >= {"CPU", "NVIDIA GPU", "tritonclient"}
    assert machine["versions"]["torch"] == torch.__version__


def test_commands_answer_people_too(work_pruned, bert_made, clock):
    name = bert_made.package.name
    result = cli("export", "--name", "topics")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("topics: ")
    assert f"({report_of(bert_made.package).speedup:.2f}×)" in lines[0]
    assert [line.split()[0] for line in lines[1:8]] == ["passed"] * 7
    assert lines[8:] == ["package model_repository/topics, version 1", "report  model_repository/topics/1/report.html"]
    assert config_of(work_pruned / "model_repository" / "topics").name == "topics" != name

    result = cli("validate", "model_repository/topics")
    assert result.exit_code == 0, result.stderr
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"passed"}

    result = cli("prune", "--flops", 0.5, "--out", "half")
    assert result.exit_code == 0, result.stderr
    words = [line.split()[0] for line in result.stdout.splitlines()]
    assert (words[:2], words[-1]) == (["dense", "search"], "half")
    assert cli("doctor").stdout.count("\n") >= 6


def test_prune_away_from_the_target_keeps_a_margin(work, clock):
    [table] = (work / "profiles").rglob("*.json")
    values = json.loads(table.read_text(encoding="utf-8"))
    values["device"]["name"] = "Another Processor"
    (work / "elsewhere.json").write_text(json.dumps(values), encoding="utf-8")
    pruned = answer(cli("prune", "--speedup", 1.5, "--table", "elsewhere.json", "--json"))["provenance"]
    assert clock.asked == [], "there is nothing to measure here"
    assert pruned["device"] == "Another Processor"
    dense_ms = sum(point["dense_ms"] for point in values["points"])
    assert 0.9 * dense_ms / 1.5 <= pruned["predicted_ms"] <= 0.97 * dense_ms / 1.5


# promises that are not kept


def test_a_loss_nearer_to_the_limit_than_it_is_known_is_warned_of(work_pruned, bert_made, clock):
    lost = report_of(bert_made.package).lost
    limit = lost.points + lost.standard_error / 2
    assert limit >= 0
    result = cli("export", "--max-loss", limit, "--name", "near")
    assert result.exit_code == 0, result.stderr
    [warning] = [line for line in result.stdout.splitlines() if line.startswith("warning ")]
    assert f"on other samples it may well be more than {limit:g}" in warning
    package = work_pruned / "model_repository" / "near"
    [said] = report_of(package).warnings
    assert warning == f"warning {said}"
    assert said in html.unescape((package / "1" / "report.html").read_text(encoding="utf-8"))

    report = answer(cli("export", "--max-loss", lost.points + 2 * lost.standard_error, "--name", "far", "--json"))
    assert report["warnings"] == []


def test_model_that_lost_too_much_is_not_exported(work_pruned, bert_made, clock, monkeypatch):
    lost = Check(name="at most 1 points lost", passed=False, detail="lost 2 points")
    monkeypatch.setattr(assess, "loss_check", lambda *args: lost)
    name = bert_made.package.name
    before = files_in(work_pruned)
    message = refused(cli("export", "--max-loss", 1), "at most 1 points lost", "nothing was exported", code=1)
    after = files_in(work_pruned)
    assert {name for name, content in after.items() if content is not None} == {
        name for name, content in before.items() if content is not None
    }  # fmt: skip
    rejected = work_pruned / ".prune2deploy" / "rejected" / f"{name}.html"
    assert str(rejected) in message
    assert "FAILED at most 1 points lost" in rejected.read_text(encoding="utf-8")

    result = cli("export", "--max-loss", 1, "--force")
    assert result.exit_code == 1
    assert result.stdout.startswith("FAILED at most 1 points lost")
    package = work_pruned / "model_repository" / name
    report = report_of(package)
    assert report.verdict == "failed"
    assert report.headline == result.stdout.splitlines()[0]
    assert report.headline in (package / "1" / "report.html").read_text(encoding="utf-8")

    found = answer(cli("validate", f"model_repository/{name}", "--json"), code=1)
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["made without a failure"]


def slow_at(description, times, slowness=2.0):
    """A clock factor: the pruned engine is slow the first `times` times that `description` is measured."""
    seen = []

    def factor(asked, name):
        if not asked.startswith(description) or name == "dense":
            return 1.0
        seen.append(asked)
        return slowness if len(seen) <= times else 1.0

    return factor


def record_aims(monkeypatch):
    aims, real = [], Workbench.prune_to

    def prune_to(workbench, budget, aim):
        aims.append(aim)
        return real(workbench, budget, aim)

    monkeypatch.setattr(Workbench, "prune_to", prune_to)
    return aims


def test_budget_missed_at_the_end_is_tried_again_with_more_margin(work, clock, monkeypatch):
    clock.factor = slow_at(FINAL, 1)
    aims = record_aims(monkeypatch)
    report = answer(cli("run", "--speedup", 1.5, "--name", "topics", "--json"))
    assert report["verdict"] == "passed"
    assert len(aims) == 2
    assert aims[1] < aims[0] < 1
    assert clock.count(FINAL) == 2
    assert not list((work / ".prune2deploy" / "pruned").iterdir())


@pytest.mark.parametrize(("slower", "attempts"), [(1.02, 1), (1.04, 2), (1.06, 2), (1.12, 2), (1.5, 4)])
def test_export_that_is_steadily_slower_than_its_candidate_is_met_at_the_second_try(slower, attempts):
    attempt, tried = closed_loop.Attempt(Budget(kind="speedup", value=2), closed_loop.AIM, by_loss=False), 1
    while (used := attempt.aim * slower) > 1:
        attempt, tried = attempt.after(BudgetMissedError("too slow", used)), tried + 1
    assert tried == attempts
    assert attempts == 1 or attempts > 2 or used == pytest.approx(closed_loop.AIM)


def test_budget_that_is_never_met_is_no_package(work, clock, monkeypatch):
    clock.factor = slow_at(FINAL, 99)
    monkeypatch.setattr(closed_loop, "ATTEMPTS", 2)
    aims = record_aims(monkeypatch)
    result = cli("run", "--speedup", 1.5, "--name", "topics")
    message = refused(result, "budget of 1.5× speedup", "too slow: ask for ", code=1)
    assert len(aims) == closed_loop.ATTEMPTS == len(set(aims))
    assert float(message.split("ask for ")[1].split(" ms")[0]) > float(message.split("measured ")[1].split(" ms")[0])
    assert not (work / "model_repository" / "topics").exists()
    assert "FAILED" in (work / ".prune2deploy" / "rejected" / "topics.html").read_text(encoding="utf-8")

    del aims[:]
    result = cli("run", "--speedup", 1.5, "--name", "topics", "--force", "--json")
    assert answer(result, code=1)["verdict"] == "failed"
    assert aims == [], "the models of the first try are still there"
    assert report_of(work / "model_repository" / "topics").headline.startswith("FAILED budget of 1.5× speedup")


def test_budget_in_milliseconds_is_judged_by_todays_clock(work, bert_made, clock):
    dense = bert_made.said["profile"]["dense_ms"]  # on the table's day; today everything takes 1.7 times as long
    clock.factor = lambda description, name: 1.7
    record = answer(cli("prune", "--latency-ms", 0.6 * 1.7 * dense, "--json"))
    measured = record["provenance"]["fitted"][-1]
    assert measured["dense_ms"] == pytest.approx(1.7 * dense, rel=0.01)
    assert 0.9 <= measured["measured_ms"] / (0.6 * 1.7 * dense) <= 1
    refused(cli("prune", "--latency-ms", 1.75 * dense, "--out", "other"), "asks for nothing: the dense model takes")


def test_engine_that_no_search_can_make_fast_enough(work, clock):
    clock.factor = slow_at(CANDIDATE, 99, slowness=20)  # even a model without blocks
    before = files_in(work)
    refused(cli("prune", "--latency-ms", 2.5), "the budget of 2.5 ms was not met", "ask for at least that", code=1)
    assert files_in(work) == before


def test_more_effort_is_for_the_method_that_takes_it(work, clock):
    before = files_in(work)
    refused(cli("prune", "--speedup", 1.5, "--effort", 3, "--method", "kwon"), "--method kwon takes no --effort")
    refused(cli("prune", "--speedup", 1.5, "--effort", -1), "effort")
    assert files_in(work) == before
    record = answer(cli("prune", "--speedup", 1.5, "--effort", 3, "--json"))
    assert record["provenance"]["effort"] == 3


@pytest.mark.parametrize("loss", [-1, "nan", "inf"])
def test_losses_without_sense_are_refused_before_anything_is_done(loss, work_pruned, clock):
    for command in (("export",), ("run", "--speedup", 2, "--name", "other")):
        refused(cli(*command, "--max-loss", loss), "0 or more")
    assert clock.asked == []


def test_what_was_found_is_told_even_where_latency_cannot_be_measured(bert_made, tmp_path, clock, monkeypatch):
    package = shutil.copytree(bert_made.package, tmp_path / bert_made.package.name)
    with (package / "1" / "processor" / "tokenizer.json").open("a", encoding="utf-8") as stream:
        stream.write(" ")

    def busy(*args):
        raise UnstableMeasurementError("the machine is busy")

    monkeypatch.setattr(recheck, "time_workload", busy)
    monkeypatch.chdir(tmp_path)
    found = answer(cli("validate", package, "--json"), code=1)
    failed = {check["name"]: check["detail"] for check in found["checks"] if not check["passed"]}
    assert failed == {
        "files": "1/processor/tokenizer.json was changed", "latency": "could not be measured: the machine is busy"
    }  # fmt: skip
    assert found["passed"] is False


def test_package_slower_than_its_budget_does_not_validate(bert_made, clock, monkeypatch):
    clock.factor = slow_at("measuring latency", 99)
    monkeypatch.chdir(bert_made.root)
    result = cli("validate", bert_made.package)
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["passed"] * 5 + ["FAILED"]
    assert "too slow" in result.stdout
