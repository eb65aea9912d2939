import copy

import numpy as np
import pytest
import synthetic
import tiny
import torch
from said import logits_of

from prune2deploy.budget import Budget
from prune2deploy.errors import CheckFailedError, InputError
from prune2deploy.models.checkpoint import load, load_dense
from prune2deploy.models.family import blocks_of
from prune2deploy.models.logit_scale import scale_logits_
from prune2deploy.models.surgery import mask_
from prune2deploy.pruning.methods.fisher import FisherMethod
from prune2deploy.pruning.methods.method import Method, State
from prune2deploy.pruning.methods.registry import METHODS
from prune2deploy.pruning.stage import prune
from prune2deploy.pruning.workbench import calibration_samples, shrunk_equal
from prune2deploy.tasks.predict import metric_of, score_of, torch_run

HALF = Budget(kind="flops", value=0.5)


def files_of(directory):
    return {path.name for path in directory.iterdir()}


def score(case, model):
    """On the evaluation split."""
    return score_of(metric_of(torch_run(model, case.task), case.task, case.samples, case.samples.labels), case.samples).value


def widths_of(model, blocks):
    """Head and filter counts as the saved weights have them."""
    found = {}
    for name, tensor in model.state_dict().items():
        for block in blocks:
            ends = {
                ("attention", "bert"): f"layer.{block.layer}.attention.output.dense.weight",
                ("ffn", "bert"): f"layer.{block.layer}.output.dense.weight",
                ("attention", "vit"): f"layers.{block.layer}.attention.o_proj.weight",
                ("ffn", "vit"): f"layers.{block.layer}.mlp.fc2.weight",
            }  # fmt: skip
            if name.endswith(ends[block.kind, model.config.model_type]):
                found[block] = tensor.shape[1] // block.unit_size
    return {block: found.get(block, 0) for block in blocks}  # a vanished block has a bias and no weight


@pytest.mark.parametrize("method", ["ours", "fisher", "kwon"])
def test_pruned_to_a_share_of_the_flops(case, tmp_path, method):
    out = tmp_path / "out"
    record = prune(case.project, HALF, out, method=method)
    blocks = blocks_of(case.model)
    model = load(out)
    assert widths_of(model, blocks) == record.plan.widths(blocks)
    calibration, *_ = calibration_samples(case.task, case.project)
    costs = synthetic.flop_costs_of(case.model, calibration)
    assert 0.4 < costs.total(record.plan.widths(blocks)) <= 0.5 + 1e-9

    provenance = record.provenance
    names = [result.stage for result in provenance.stages]
    assert names[:2] == ["dense", "search"]
    assert set(names[2:]) == {
        "ours": {"selection and re-fit", "block reconstruction"},
        "fisher": {"rearrangement", "mask tuning", "re-fit"},
        "kwon": {"rearrangement", "mask tuning"},
    }[method]
    dense, search, *steps = provenance.stages
    assert dense.divergence == dense.reconstruction_error == 0
    assert search.divergence > 0
    assert search.kept
    best = search.divergence
    for result in steps:
        assert result.kept == (result.divergence <= best)
        best = min(best, result.divergence)
    assert score(case, model) == pytest.approx([result for result in provenance.stages if result.kept][-1].score)
    assert score(case, case.model) == dense.score
    assert {result.n for result in provenance.stages} == {len(case.samples)}

    assert (provenance.method, provenance.budget, provenance.labels) == (
        method, HALF, "not used" if method == "ours" else "given"
    )  # fmt: skip
    assert provenance.predicted_ms is provenance.table is provenance.device is None
    assert provenance.fitted == []
    assert provenance.calibration_samples == len(calibration)
    assert provenance.equality_error < 1e-4
    assert {"prune2deploy.json", "model.safetensors", "config.json"} < files_of(out)
    assert not [name for name in files_of(tmp_path) if name.endswith(".partial")]


@pytest.mark.parametrize("method", ["ours", "fisher", "kwon"])
def test_the_same_again_is_the_same_to_the_bit(case, tmp_path, method):
    first, again, elsewhere = (
        prune(case.project.model_copy(update={"root": tmp_path / root}), HALF, tmp_path / out, method=method)
        for root, out in (("here", "first"), ("here", "again"), ("there", "elsewhere"))  # "there" has no cache
    )
    for other in (again, elsewhere):
        assert other.plan == first.plan
        assert other.weights_sha256 == first.weights_sha256
    assert (tmp_path / "first/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_data_without_labels(bert_dir, text_data, tmp_path):
    project = tiny.make_project(bert_dir, text_data, "text-classification", tmp_path)
    unlabelled = project.model_copy(
        update={"data": project.data.model_copy(update={"columns": {"text": "text", "label": ""}})}
    )
    record = prune(unlabelled, HALF, tmp_path / "out", method="fisher")
    assert "drawn" in record.provenance.labels
    assert record.provenance.stages[0].score == 100
    assert "against the dense model" in record.provenance.stages[1].metric


def test_calibration_and_held_out_samples_do_not_overlap(case):
    calibration, held_out, _ = calibration_samples(case.task, case.project)
    assert len(held_out) >= 1
    assert 8 <= len(calibration) <= 16

    def keys(samples):
        return {b"".join(a.tobytes() for a in samples.batch([index]).inputs.values()) for index in range(len(samples))}

    assert len(keys(calibration)) == len(calibration)
    assert not keys(calibration) & keys(held_out)
    assert calibration_samples(case.task, case.project)[0].digest() == calibration.digest()


# steps that do harm


class Harmful(FisherMethod):
    """A good step, a harmful one, and another that tells what it was given."""

    name = "harmful"

    def steps(self, costs, budget):
        self.seen = []

        def harm(state):
            with torch.no_grad():
                for weight in state.model.parameters():
                    weight.mul_(3)
            return State(state.plan, state.model, ["wrecked"])

        def look(state):
            self.seen.append(copy.deepcopy(state.model))
            return state

        TOLD.append(self)
        return [("harm", harm), ("look", look)]


TOLD: list[Method] = []


def test_a_harmful_step_is_told_of_and_not_used(case, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "harmful", Harmful)
    record = prune(case.project, HALF, tmp_path / "out", method="harmful")
    _, search, harm, look = record.provenance.stages
    assert [search.kept, harm.kept, look.kept] == [True, False, True]
    assert harm.divergence > search.divergence
    assert harm.notes[0] == "wrecked"
    assert harm.notes[1].startswith("not kept")
    assert f"rose from {search.divergence:.3g} to {harm.divergence:.3g}" in harm.notes[1]
    assert look.divergence == pytest.approx(search.divergence, rel=1e-4)
    masked = load_dense(case.directory)
    mask_(masked, record.plan)
    scale_logits_(masked, search.logit_scale)
    for model, scale in ((TOLD.pop().seen[0], 1.0), (load(tmp_path / "out"), look.logit_scale)):
        scale_logits_(masked, scale)
        np.testing.assert_allclose(
            logits_of(model, case.task, case.samples), logits_of(masked, case.task, case.samples), rtol=1e-4, atol=1e-4
        )


def test_shrinking_that_changes_the_model_is_not_passed_on(case):
    plan = tiny.plan_keeping(case.model, tiny.ragged)
    masked = copy.deepcopy(case.model)
    mask_(masked, plan)
    small, difference = shrunk_equal(State(plan, masked), case.task, case.samples)
    assert difference < 1e-4
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in masked.parameters())
    with pytest.raises(CheckFailedError, match="shrinking changed the model"):
        shrunk_equal(State(plan, case.model), case.task, case.samples)  # nothing is masked there


# what a user can mend


def test_what_stands_there_is_not_touched(case, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "work.txt").write_text("somebody's")
    with pytest.raises(InputError, match="already exists"):
        prune(case.project, HALF, out)
    assert files_of(out) == {"work.txt"}


def test_an_unknown_method(case, tmp_path):
    with pytest.raises(InputError, match=r"unknown method 'magic'.*fisher.*kwon"):
        prune(case.project, HALF, tmp_path / "out", method="magic")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rows", [1, 7])
def test_too_few_samples(bert_dir, tmp_path, rows):
    data = tmp_path / "few"
    data.mkdir()
    tiny.write_jsonl(data / "train.jsonl", tiny.text_rows(rows, seed=0))
    tiny.write_jsonl(data / "validation.jsonl", tiny.text_rows(4, seed=1))
    project = tiny.make_project(bert_dir, data, "text-classification", tmp_path)
    with pytest.raises(InputError, match=f"{rows} samples are too few"):
        prune(project, HALF, tmp_path / "out")
    assert not (tmp_path / "out").exists()
