"""A tiny Llama whose head shares its weights with the embeddings, as a language model: outputs at every position."""

import copy
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import steady
import structures
import tiny
import torch
from steady import answer, cli, refused
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.models.checkpoint import PLAN_FILE, load, load_dense, save_pruned
from prune2deploy.models.family import blocks_of
from prune2deploy.models.logit_scale import factor_of, scale_logits_
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import shrunk
from prune2deploy.progress import Progress
from prune2deploy.pruning.shelf import Shelf
from prune2deploy.pruning.statistics.calibrate import Calibration, mask_gradients
from prune2deploy.pruning.statistics.moments import moments_of
from prune2deploy.repository import references
from prune2deploy.repository.manifest import REFERENCE_FILE
from prune2deploy.repository.references import chosen, read_references, write_references
from prune2deploy.tasks import base
from prune2deploy.tasks.next_token import NextToken
from prune2deploy.tasks.objectives import IGNORED, Categorical
from prune2deploy.tasks.predict import labels_of, metric_of, outputs_of, torch_run
from prune2deploy.tasks.texts import TextSamples
from prune2deploy.validation.dense_score import dense_score
from prune2deploy.validation.witness import reading, serving

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SHARED = {key: value for key, value in structures.TEXT.items() if key not in tiny.LABELS}
SHAPE = {**SHARED, **structures.PLAIN, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}


def save(directory, **changes):
    config = LlamaConfig(**{**SHAPE, "tie_word_embeddings": True, **changes})
    tiny.randomise(LlamaForCausalLM(config)).save_pretrained(directory)
    return tiny.save_tokenizer(directory, ["input_ids", "attention_mask"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model, and a corpus with lines that are empty."""
    root = tmp_path_factory.mktemp("language")
    save(root / "model")
    (root / "data").mkdir()
    for split, count, seed in (("train", 40, 1), ("validation", 24, 2)):
        rows = [{"text": row["text"]} for row in tiny.text_rows(count, seed)]
        tiny.write_jsonl(root / "data" / f"{split}.jsonl", [rows[0], {"text": ""}, *rows[1:], {"text": " "}])
    return root


def loaded(folder, tmp_path, model="model", **changes):
    columns = {"text": "text"}
    workload = [{"batch": 2, "seq_len": 8}]
    project = tiny.make_project(
        folder / model, folder / "data", "next-token", tmp_path, data_columns=columns, workload=workload, **changes
    )
    return tiny.loaded_task(project)


@pytest.fixture(scope="module")
def case(folder, tmp_path_factory):
    return loaded(folder, tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def texts(folder):
    lines = (folder / "data" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    return [text for line in lines if (text := json.loads(line)["text"]).strip()]


@pytest.fixture
def clock(monkeypatch):
    found = steady.install(monkeypatch)

    def timed(engine, inputs):  # `SteadyEngine.timed`, where engines answer by name
        def run():
            assert all(np.isfinite(output).all() for output in engine.run(inputs).values())
            return engine.ms + steady.PADDED_MS * run.padded + steady.USED_MS * bool(run.other_shapes)

        run.padded = steady.has_padding(inputs)
        run.other_shapes = engine.shapes - {array.shape for array in inputs.values()}
        return run

    monkeypatch.setattr(steady.SteadyEngine, "timed", timed)
    return found


def alone(folder, text):
    """Ids and logits, [positions, vocabulary] float64, of one text, by nothing but transformers."""
    model = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float64).eval()
    encoded = AutoTokenizer.from_pretrained(folder / "model")(text, return_tensors="pt")
    with torch.no_grad():
        return encoded["input_ids"][0].numpy(), model(**encoded).logits[0].numpy()


def halved(model):
    """A plan of half of the units, but for one block that goes altogether."""
    return tiny.plan_keeping(model, lambda block: 0 if block.key == "1.ffn" else (block.units + 1) // 2)


def test_labels_are_the_next_tokens(case, texts):
    _, task = case
    samples = task.evaluation()
    assert len(samples) == len(texts)
    batch = samples.batch([0, 1, 2])
    for row, length in enumerate(samples.lengths[:3]):
        ids, labels = batch.inputs["input_ids"][row], batch.labels[row]
        assert labels[: length - 1].tolist() == ids[1:length].tolist()
        assert set(labels[length - 1 :].tolist()) == {IGNORED}
    some = samples.select([2, 0])
    np.testing.assert_array_equal(some.batch([0]).labels, samples.batch([2]).labels)
    assert some.digest() != samples.digest()


def test_places_leave_out_empty_lines(case, texts):
    _, task = case
    assert "line 3" in task.place(1)
    assert task.raw(3) == {"TEXT": [text.encode() for text in texts[:3]]}


def test_the_score_is_that_of_each_text_alone(case, folder, texts):
    model, task = case
    samples = task.evaluation()
    right = answers = 0
    for text in texts:
        ids, logits = alone(folder, text)
        right += int((logits[:-1].argmax(-1) == ids[1:]).sum())
        answers += len(ids) - 1
    metric = metric_of(torch_run(model, task), task, samples, samples.labels)
    assert metric.score().value == pytest.approx(100 * right / answers)
    assert metric.score().n == len(texts)


def test_losses_and_divergence_are_those_of_each_text_alone(case, folder, texts):
    model, task = case
    samples = task.evaluation().select([0, 1, 2, 3])
    batch = samples.batch([0, 1, 2, 3])
    said = task.said(model, batch.tensors())
    losses = task.objective.losses(said, task.targets(batch.labels), batch.counts())
    for row, text in enumerate(texts[:4]):
        ids, logits = alone(folder, text)
        known = torch.from_numpy(logits[:-1]).log_softmax(-1).numpy()
        wanted = -known[np.arange(len(ids) - 1), ids[1:]].sum()
        assert float(losses[row]) == pytest.approx(wanted, rel=1e-5)
    outputs = outputs_of(torch_run(model, task), task, samples)
    assert outputs["logits"].values.shape == (sum(samples.lengths), model.config.vocab_size)
    assert task.objective.divergence(outputs, outputs) == 0


def with_padding(samples, value):
    return TextSamples(samples.encoded, samples.labels, {**samples.padding, "input_ids": value}, samples.outputs_each)


def test_what_lies_in_the_padding_changes_no_statistics(case):
    model, task = case
    samples = task.evaluation()
    batch = samples.batch([0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    probe = Categorical(per_position=True).fisher_probe(
        task.said(model, batch.tensors())["logits"], generator, batch.counts()
    )
    assert not probe[~batch.counts()].any()
    assert probe[batch.counts()].any(-1).all()
    found = [moments_of(Calibration(model, task, with_padding(samples, value), 0, Progress())) for value in (0, 17)]
    for block in blocks_of(model):
        for name in ("mean", "covariance", "sensitivity"):
            mine, other = (getattr(each.blocks[block], name) for each in found)
            np.testing.assert_array_equal(mine, other)
            assert np.isfinite(mine).all()


def test_mask_gradients_are_those_of_each_sample_alone(case):
    model, task = case
    samples = task.evaluation()
    calibration = Calibration(model, task, samples, 0, Progress())
    chosen_ones = [0, 1, 2, 3]
    assert len({samples.lengths[index] for index in chosen_ones}) > 1
    [together] = mask_gradients(calibration, [(0, samples.batch(chosen_ones))], 1)
    parts = list(mask_gradients(calibration, [(index, samples.batch([index])) for index in chosen_ones], 4))
    for block in blocks_of(model):
        torch.testing.assert_close(together[block], torch.cat([part[block] for part in parts]), rtol=1e-3, atol=1e-4)


def test_batches_and_what_is_kept_are_bounded_by_what_is_put_out(case, monkeypatch):
    _, task = case
    samples = task.evaluation()
    monkeypatch.setattr(base, "OUTPUTS", 3 * 16 * samples.outputs_each)
    for _, batch in samples.batches(32):
        assert batch.inputs["input_ids"].size <= 3 * 16
    few = samples.first(24)
    assert sum(few.lengths) * samples.outputs_each <= base.OUTPUTS
    assert 1 < len(few) < len(samples)
    monkeypatch.setattr(base, "OUTPUTS", 1)
    assert len(samples.first(24)) == 1


def test_a_dense_model_is_compared_with_the_most_frequent_token(case):
    model, task = case
    samples = task.evaluation()
    with pytest.raises(InputError, match="one answer to everything"):
        dense_score(task, torch_run(model, task), samples, False)

    def right(inputs):
        following = np.roll(inputs["input_ids"], -1, axis=1)
        return {"logits": np.eye(samples.outputs_each)[following]}

    assert dense_score(task, right, samples, False).value == 100
    every = np.concatenate([labels[:-1] for labels in samples.labels])
    constant = metric_of(task.constant(samples.labels), task, samples, samples.labels).score()
    assert constant.value == pytest.approx(100 * np.bincount(every).max() / len(every))


def test_without_labels_the_model_is_right_about_itself(case):
    model, task = case
    run, samples = torch_run(model, task), task.evaluation()
    bare = TextSamples(samples.encoded, None, samples.padding, samples.outputs_each)
    assert metric_of(run, task, bare, labels_of(run, task, bare)).score().value == 100


def test_the_witness_compares_every_position(case):
    model, task = case
    run, samples, outside = torch_run(model, task), task.evaluation(), task.outside()
    assert reading(task, run, samples, outside).objection is None
    [text] = task.raw(1)["TEXT"]
    length = samples.lengths[0]

    def cut(sample):
        return outside(sample)[:-1]

    assert f"has {length - 1} tokens, and our reading" in reading(task, run, samples, cut).objection

    def off(sample):
        logits = outside(sample).copy()
        logits[1] += np.eye(logits.shape[-1])[5] * 100
        return logits

    assert f"'class 5' (1.000) at token 2 of {length}".replace("'", "") in reading(task, run, samples, off).objection

    def fails(sample):
        raise ValueError("no")

    objection = serving(task, fails, outside).objection
    assert f"gives answers to {length} tokens, and what a server runs gives no answer (no)" in objection
    assert outside({"TEXT": text}).shape == (length, model.config.vocab_size)


def test_scaling_leaves_the_embeddings_and_survives_saving(case, folder, tmp_path):
    model, task = case
    before = model.get_parameter(EMBEDDINGS).clone()
    slim = shrunk(model, halved(model))
    batch = task.evaluation().batch([0, 1])
    plain = task.said(slim, batch.tensors())["logits"]
    scale_logits_(slim, 0.5)
    scale_logits_(slim, 0.5)
    torch.testing.assert_close(task.said(slim, batch.tensors())["logits"], 0.25 * plain)
    save_pruned(slim, halved(model), tiny.provenance(), folder / "model", tmp_path)
    stored = read_arrays(tmp_path / "model.safetensors")
    assert HEAD not in stored
    np.testing.assert_array_equal(stored[EMBEDDINGS], before.numpy())
    assert json.loads((tmp_path / PLAN_FILE).read_text(encoding="utf-8"))["logit_scale"] == 0.25
    back = load(tmp_path)
    assert factor_of(back) == 0.25
    assert back.get_parameter(HEAD) is back.get_parameter(EMBEDDINGS)
    assert torch.equal(task.said(back, batch.tensors())["logits"], task.said(slim, batch.tensors())["logits"])
    assert factor_of(model) == 1.0


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_are_shared_are_stored_once(tied, folder, tmp_path):
    save(tmp_path / "model", tie_word_embeddings=tied)
    assert (HEAD in read_arrays(tmp_path / "model" / "model.safetensors")) is not tied
    model = load_dense(tmp_path / "model")
    assert (model.get_parameter(HEAD) is model.get_parameter(EMBEDDINGS)) is tied
    scale_logits_(model, 0.5)
    assert factor_of(model) == (0.5 if tied else 1.0)


def test_a_head_that_is_not_tied_must_be_there(tmp_path):
    save(tmp_path / "model")
    steady.rewrite(tmp_path / "model" / "config.json", '"tie_word_embeddings": true', '"tie_word_embeddings": false')
    with pytest.raises(InputError, match=r"the weights lack lm_head\.weight"):
        load_dense(tmp_path / "model")


def test_signatures_tell_the_vocabulary_and_nothing_new_of_classifiers(case):
    model, _ = case
    signature = signature_of(model.config)
    assert signature.fixed["outputs"] == f"{model.config.vocab_size}each"
    classifier = signature_of(structures.model_of("llama").config)
    assert classifier.fixed["outputs"] == 3
    assert classifier.name.endswith("-o3")
    assert classifier.curves == signature.curves


def test_label_maps_are_not_asked_of_a_language_model(tmp_path):
    save(tmp_path / "model", num_labels=1, problem_type="regression")
    assert load_dense(tmp_path / "model").config.architectures == ["LlamaForCausalLM"]


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_the_graph_says_what_pytorch_says(case, factor, tmp_path):
    model, task = case
    slim, samples = copy.deepcopy(shrunk(model, halved(model))), task.evaluation()
    scale_logits_(slim, factor)
    export_onnx(slim, task, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for indices in ([0], [1, 2, 3], list(range(16))):  # alone, and padded beside others
        batch = samples.batch(indices)
        [got] = session.run(None, batch.inputs)
        for row, index in enumerate(indices):
            wanted = torch_run(slim, task)(samples.batch([index]).inputs)["logits"][0]
            np.testing.assert_allclose(got[row][batch.valid[row]], wanted, rtol=1e-4, atol=1e-4)


def test_references_keep_positions_that_count(case, tmp_path, monkeypatch):
    model, task = case
    run, samples = torch_run(model, task), task.evaluation()
    point = WorkloadPoint(batch=3, seq_len=8)
    workload = [(point, task.workload_inputs(samples, point))]
    vocabulary = model.config.vocab_size
    monkeypatch.setattr(references, "BYTES", 2 * 4 * 8 * vocabulary * 2)  # two positions of eight samples, and the workload
    write_references(tmp_path, task, samples, run, workload)
    found = read_references(tmp_path, 1)
    assert found.outputs["logits"].shape == (8, 2, vocabulary)
    assert found.workload_outputs[0]["logits"].shape == (3, 5, vocabulary)
    assert found.positions["logits"][:, -1].tolist() == [length - 1 for length in samples.lengths[:8]]
    assert found.workload_positions[0]["logits"][0].tolist() == [0, 2, 4, 5, 7]
    said = chosen(run(found.inputs), found.positions)
    np.testing.assert_allclose(said["logits"], found.outputs["logits"], rtol=1e-6)
    outputs = sum(array.nbytes for array in (found.outputs["logits"], found.workload_outputs[0]["logits"]))
    assert outputs <= references.BYTES
    monkeypatch.setattr(references, "BYTES", 4 * vocabulary)  # no room for a position of each
    write_references(tmp_path, task, samples, run, workload)
    assert read_references(tmp_path, 1).outputs["logits"].shape == (1, 1, vocabulary)


def test_documents_are_cut(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(NextToken, "cut_to", 5)
    model, task = loaded(folder, tmp_path)
    samples = task.evaluation()
    assert max(samples.lengths) == 5
    assert reading(task, torch_run(model, task), samples, task.outside()).objection is None
    longer = loaded(folder, tmp_path, data_max_length=7)[1].evaluation()
    assert max(longer.lengths) == 7


def test_a_text_without_tokens_is_named(case, folder, monkeypatch):
    _, task = case
    rows = task.rows("validation")
    monkeypatch.setattr(type(task), "encoded", lambda self, rows, split: {"input_ids": [[2, 5], []], "attention_mask": []})
    with pytest.raises(InputError, match=r"line 3.*leaves nothing of the text"):
        task.samples_of(rows, "validation")


def test_columns():
    assert NextToken.guess_columns({"Text": None, "label": None}, {}, "data") == {"text": "Text"}
    assert NextToken.guess_columns({"body": None}, {"text": "body"}, "data") == {"text": "body"}
    with pytest.raises(InputError, match="which column is the text"):
        NextToken.guess_columns({"body": None}, {}, "data")


@pytest.mark.slow
def test_the_whole_way(folder, tmp_path, monkeypatch, clock):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Shelf, "clear", lambda shelf: None)  # so that the pruned model can be looked at
    start = ["init", folder / "model", "--data", folder / "data", "--batch", 2, "--seq-len", 8, "--threads", 1,
             "--samples", 16]  # fmt: skip
    refused(cli(*start, "--label", "text", "--force"), "next-token reads no label column")
    refused(cli(*start), "one answer to everything")
    begun = answer(cli(*start, "--force", "--json"))
    assert begun["project"]["task"] == "next-token"
    assert begun["project"]["data"]["columns"] == {"text": "text"}
    assert answer(cli("profile", "--json"))
    refused(cli("run", "--speedup", 1.4, "--with-tokenizer"), "leave out --with-tokenizer")
    said = answer(cli("run", "--speedup", 1.4, "--json"))
    assert said["verdict"] == "passed"
    assert said["speedup"] >= 1.4
    assert said["metric_pruned"]["n"] == 24

    [pruned] = {path.parent for path in tmp_path.rglob(PLAN_FILE)}
    dense, stored = load_dense(folder / "model"), read_arrays(pruned / "model.safetensors")
    np.testing.assert_array_equal(stored[EMBEDDINGS], dense.get_parameter(EMBEDDINGS).numpy())
    assert HEAD not in stored
    scale = json.loads((pruned / PLAN_FILE).read_text(encoding="utf-8"))["logit_scale"]
    assert scale != 1.0
    assert factor_of(load(pruned)) == scale

    package = Path(said["path"])
    assert answer(cli("validate", package, "--json"))["passed"]
    file = next(package.rglob(REFERENCE_FILE))
    arrays = read_arrays(file)
    arrays["output.logits"][0, 0, 0] += 1
    write_arrays(file, arrays)
    told = answer(cli("validate", package, "--json"), code=1)
    assert {check["name"] for check in told["checks"] if not check["passed"]} == {"files", "reference outputs"}
