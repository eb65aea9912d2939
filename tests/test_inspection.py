from pathlib import Path

import heads
import pytest
import structures
from steady import answer, cli, refused

from prune2deploy.inspection import inspect
from prune2deploy.models.checkpoint import read_pruned_record
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import shrunk

pytest_plugins = ("made",)
TABLE = next(iter(sorted((Path(__file__).parents[1] / "profiles").rglob("*.json"))))


def rows_of(inspection, title):
    table = next(table for table in inspection.tables if title in table.title)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def size(model):
    return sum(tensor.numel() for tensor in model.parameters())


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama", "swin", "resnet", "deberta", "mobilebert", "beit"])
def test_parameters_of_a_block_are_what_shrinking_it_saves(family, tmp_path):
    structures.save(family, tmp_path / "model")
    found = inspect("model", tmp_path)
    model = structures.model_of(family)
    blocks = blocks_of(model)
    told = {row["block"]: row for row in rows_of(found, "blocks")}
    assert list(told) == [block.key for block in blocks]
    for block in blocks[:2]:
        kept = {each: range(1 if each == block else each.units) for each in blocks}
        saved = size(model) - size(shrunk(model, Plan.of(signature_of(model.config), kept)))
        assert saved * block.units == told[block.key]["parameters"] * (block.units - 1)
    fixed = sum(row["parameters"] for row in rows_of(found, "stays"))
    assert fixed + sum(row["parameters"] for row in told.values()) == found.facts["parameters"] == size(model)


def test_flops_are_those_of_the_formula(bert_dir):
    found = inspect(str(bert_dir), Path.cwd())
    tokens, width, filters = 32, 32, 64
    attention = 2 * tokens * 4 * width * width + 2 * 2 * tokens * tokens * width
    ffn = 2 * tokens * 2 * width * filters
    told = {row["block"]: row["MFLOPs"] for row in rows_of(found, "blocks")}
    assert (told["0.attention"], told["2.ffn"]) == pytest.approx((attention / 1e6, ffn / 1e6), abs=1e-3)


def test_multiple_choice_counts_one_choice(bert_dir, tmp_path):
    heads.save_model("multiple-choice", tmp_path / "choices")
    heads.save_model("multi-label", tmp_path / "labels")
    choices, labels = (inspect(name, tmp_path) for name in ("choices", "labels"))
    assert rows_of(choices, "blocks") == rows_of(labels, "blocks")


def test_a_pruned_model_and_its_package_tell_what_is_kept(bert_made, monkeypatch):
    monkeypatch.chdir(bert_made.root)
    of_directory = answer(cli("inspect", bert_made.pruned, "--json"))
    assert of_directory == answer(cli("inspect", bert_made.pruned / "prune2deploy.json", "--json"))
    kept = read_pruned_record(bert_made.pruned).plan.widths_by_key()
    assert {row[0]: row[1] for row in of_directory["tables"][0]["rows"]} == kept
    assert "pruned model: " in cli("inspect", bert_made.pruned).stdout
    package = answer(cli("inspect", bert_made.package, "--json"))
    assert (package["kind"], package["facts"]["verdict"]) == ("package", "passed")
    assert package["tables"][0] == of_directory["tables"][0]
    refused(cli("inspect", "model_repository"), "name one of its entries, such as")


def test_a_table_tells_what_widths_cost():
    found = inspect(str(TABLE), Path.cwd())
    assert found.kind == "latency table"
    assert [row["curve"] for row in rows_of(found, "batch")] == ["attention", "ffn"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("./nothing", "no such model directory"), ("empty", "no config.json here"),
        ("note.json", "not a valid latency table"), ("gone.json", "no latency table here"),
    ],
)  # fmt: skip
def test_what_is_nothing_of_ours_is_refused(what, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.json").write_text("{}")
    refused(cli("inspect", what), says)
