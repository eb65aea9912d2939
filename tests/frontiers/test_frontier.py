import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from steady import CANDIDATE, answer, cli, files_in, interrupted, refused

import prune2deploy
from prune2deploy.frontiers import stage
from prune2deploy.models.checkpoint import read_pruned_record
from prune2deploy.pruning.statistics import moments

pytest_plugins = ("made",)

SPEEDUPS = (1.3, 2)
SWEEP = ("frontier", "--speedup", 2, "--speedup", 1.3)


@pytest.fixture
def swept(work, clock):
    """The project's directory, and what a frontier of two budgets said."""
    return work, answer(cli(*SWEEP, "--json"))


def test_every_budget_is_a_model_with_what_it_measured(swept):
    work, said = swept
    stored = json.loads((work / "frontier" / "frontier.json").read_text(encoding="utf-8"))
    assert said == {"path": "frontier", **stored}
    assert [point["name"] for point in stored["points"]] == ["1.3x", "2x"], "from slow to fast"
    for point, speedup in zip(stored["points"], SPEEDUPS, strict=True):
        assert point["speedup"] >= speedup
        assert point["used"] == pytest.approx(speedup / point["speedup"])
        assert point["speedup"] == pytest.approx(point["dense_ms"] / point["measured_ms"])
        assert point["predicted_ms"] == pytest.approx(point["measured_ms"], rel=1e-3)
        record = read_pruned_record(work / "frontier" / point["name"])
        assert record.provenance.budget.value == speedup
        last = [result for result in record.provenance.stages if result.kept][-1]
        assert point["score"] == last.score
        assert point["lost"] == pytest.approx(stored["dense_score"] - last.score)
    assert not list((work / ".prune2deploy" / "pruned").iterdir())


def test_table_and_picture_show_every_point(swept):
    work, _ = swept
    table = (work / "frontier" / "frontier.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["1.3x", "2x"]
    picture = ElementTree.parse(work / "frontier" / "frontier.svg")
    texts = {"".join(element.itertext()).strip() for element in picture.iter() if element.tag.endswith("text")}
    assert {"1.3x", "2x", "dense"} <= texts


def test_models_of_a_frontier_are_those_that_prune_makes(swept):
    work, _ = swept
    answer(cli("prune", "--speedup", 2, "--json"))
    for file in ("model.safetensors", "config.json"):
        assert (work / "pruned" / file).read_bytes() == (work / "frontier" / "2x" / file).read_bytes()


def test_statistics_are_taken_once_for_all_budgets(work, clock, monkeypatch):
    shutil.rmtree(work / ".prune2deploy" / "prune")
    passes, real = [], moments.passes
    monkeypatch.setattr(moments, "passes", lambda *args: passes.append(1) or real(*args))
    answer(cli(*SWEEP, "--json"))
    assert passes == [1]


def test_a_picked_point_is_exported(swept):
    work, _ = swept
    report = answer(cli("export", "--pick", "2x", "--name", "fast", "--json"))
    assert report["budget"] == {"kind": "speedup", "value": 2.0}
    assert report["verdict"] == "passed"
    manifest = json.loads((work / "model_repository" / "fast" / "1" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["weights_sha256"] == read_pruned_record(work / "frontier" / "2x").weights_sha256


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["--pick", "3x"], ["no point '3x'", "1.3x, 2x"]),
        (["--pick", "../pruned"], ["no point"]),
        (["--pick", "2x", "--pruned", "pruned"], ["--pruned", "--pick"]),
        (["--pick", "2x", "--frontier", "elsewhere"], ["elsewhere", "no such frontier"]),
    ],
)
def test_a_point_that_is_not_there(arguments, needles, swept):
    refused(cli("export", *arguments), *needles)


@pytest.mark.parametrize("text", ["{}", "[", '{"points": [{"name": "../../etc"}]}'])
def test_a_damaged_frontier(text, swept):
    work, _ = swept
    (work / "frontier" / "frontier.json").write_text(text, encoding="utf-8")
    refused(cli("export", "--pick", "2x"), "frontier.json", "not a valid frontier")


def test_default_budgets_end_where_the_model_does(work, clock, monkeypatch):
    monkeypatch.setattr(stage, "SPEEDUPS", (1.3, 2.0, 1e6))
    found = prune2deploy.frontier(prune2deploy.load_project(), out=work / "found")
    assert [point.budget.value for point in found.points] == [1.3, 2.0]
    assert found.missed == []


def test_a_budget_that_is_missed_is_named_and_not_there(work, clock):
    clock.factor = lambda asked, name: 1.0 if name == "dense" else 1.2  # nothing but a small model is twice as fast
    result = cli("frontier", "--speedup", 1.1, "--latency-ms", 0.2)
    assert result.exit_code == 1, result.stderr
    assert "MISSED  0.2 ms: the budget of 0.2 ms was not met" in result.stdout
    assert sorted(path.name for path in (work / "frontier").iterdir() if path.is_dir()) == ["1.1x"]


def test_where_every_budget_is_missed_nothing_is_written(work, clock):
    clock.factor = lambda asked, name: 1.0 if name == "dense" else 20.0
    before = files_in(work)
    refused(cli("frontier", "--speedup", 1.5), "every budget was missed", code=1)
    assert files_in(work) == before


@pytest.mark.parametrize("budget", [("--speedup", 0.5), ("--speedup", 1e6), ("--latency-ms", 1e6)])
def test_a_budget_without_sense_stops_all_of_them_at_once(budget, work, clock):
    refused(cli("frontier", "--speedup", 1.5, *budget))
    assert clock.count(CANDIDATE) == 0


def test_stopped_it_goes_on_with_the_budget_it_was_at(work, clock, monkeypatch):
    pruned = interrupted(monkeypatch, 2)
    refused(cli(*SWEEP), "the same command goes on from the parts that were finished", code=130)
    assert not (work / "frontier").exists()
    answer(cli(*SWEEP, "--json"))
    assert pruned == [1.3, 2, 2]


def test_an_existing_directory_is_refused_first(work, clock):
    (work / "frontier").mkdir()
    refused(cli(*SWEEP), "frontier already exists")
    assert clock.asked == []
    shutil.rmtree(work / "frontier")
