import json
import shutil

import heads
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from prune2deploy.errors import InputError
from prune2deploy.models.checkpoint import digest_of_model, load_dense
from prune2deploy.models.sentence_modules import read_modules
from prune2deploy.tasks.embeddings import VECTOR, Embeddings
from prune2deploy.tasks.predict import labels_of, metric_of, outputs_of, score_of, torch_run

SUBJECTS = ("army", "king", "song", "film", "house", "river")
ROWS = [{"query": f"won {word}", "document": f"the {word} lost"} for word in SUBJECTS]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return heads.save_model("embeddings", tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def model_dir(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture
def of(model_dir, tmp_path):
    def make(rows=ROWS, columns=None, **changes):
        (tmp_path / "data").mkdir(exist_ok=True)
        for split in ("train", "validation"):
            tiny.write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
        project = tiny.make_project(
            model_dir, tmp_path / "data", "embeddings", tmp_path, data_columns={"text": "query", "text_pair": "document"},
            workload=[{"batch": 2, "seq_len": 8}], **changes,
        )  # fmt: skip
        values = project.model_dump()
        values["data"]["columns"] = columns or {"text": "query", "text_pair": "document"}
        return tiny.loaded_task(type(project).model_validate({**values, "root": tmp_path}))

    return make


def refusal(action, *args):
    with pytest.raises(InputError) as caught:
        action(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pooled(mode, hidden):
    """Of one text's hidden states [tokens, d], without padding."""
    return {
        "cls": hidden[0], "mean": hidden.mean(0), "max": hidden.max(0), "lasttoken": hidden[-1],
        "mean_sqrt_len_tokens": hidden.sum(0) / np.sqrt(len(hidden)),
    }[mode]  # fmt: skip


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken"])
@pytest.mark.parametrize("normalise", [True, False])
def test_pooling_is_that_of_the_model_s_own_files(of, model_dir, mode, normalise):
    heads.save_modules(model_dir, mode, normalise=normalise)
    model, task = of()
    assert isinstance(task, Embeddings)
    samples = task.evaluation()
    together = outputs_of(torch_run(model, task), task, samples)[VECTOR].values  # padded beside each other
    for index in range(len(samples)):
        with torch.no_grad():
            hidden = model(**samples.batch([index]).tensors()).last_hidden_state[0].numpy()
        wanted = pooled(mode, hidden)
        wanted = wanted / np.linalg.norm(wanted) if normalise else wanted
        np.testing.assert_allclose(together[index], wanted, atol=1e-5)
    assert task.reads_first_token == (mode == "cls")


def test_pooling_by_one_word_and_of_several(of, model_dir):
    named = json.dumps({"pooling_mode": "mean_sqrt_len_tokens"})
    (model_dir / "1_Pooling" / "config.json").write_text(named, encoding="utf-8")
    assert read_modules(model_dir).modes == ("mean_sqrt_len_tokens",)
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (model_dir / "1_Pooling" / "config.json").write_text(json.dumps(both), encoding="utf-8")
    model, task = of()
    vector = outputs_of(torch_run(model, task), task, task.evaluation())[VECTOR].values[0]
    with torch.no_grad():
        hidden = model(**task.evaluation().batch([0]).tensors()).last_hidden_state[0].numpy()
    wanted = np.concatenate([pooled("cls", hidden), pooled("mean", hidden)])
    np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)


def add_dense(model_dir, activation="torch.nn.modules.activation.Tanh", size=8):
    modules = json.loads((model_dir / "modules.json").read_text(encoding="utf-8"))
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (model_dir / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (model_dir / "2_Dense").mkdir()
    said = {"in_features": 32, "out_features": size, "bias": True, "activation_function": activation}
    (model_dir / "2_Dense" / "config.json").write_text(json.dumps(said), encoding="utf-8")
    weights = {"linear.weight": torch.randn(size, 32), "linear.bias": torch.randn(size)}
    save_file(weights, model_dir / "2_Dense" / "model.safetensors")
    return weights


def test_a_dense_layer_behind_the_pooling_is_part_of_the_model(of, model_dir):
    before = digest_of_model(model_dir)
    weights = add_dense(model_dir)
    assert digest_of_model(model_dir) != before
    model, task = of()
    vector = outputs_of(torch_run(model, task), task, task.evaluation())[VECTOR].values[3]
    with torch.no_grad():
        hidden = model(**task.evaluation().batch([3]).tensors()).last_hidden_state[0]
    wanted = (weights["linear.weight"] @ hidden.mean(0) + weights["linear.bias"]).tanh()
    np.testing.assert_allclose(vector, wanted / wanted.norm(), atol=1e-5)


def test_without_files_of_its_own_a_model_is_pooled_by_the_mean(model_dir):
    for path in ("modules.json", "sentence_bert_config.json"):
        (model_dir / path).unlink()
    assert read_modules(model_dir).modes == ("mean",)
    assert not read_modules(model_dir).normalise


def break_file(directory, path, **said):
    there = json.loads((directory / path).read_text(encoding="utf-8"))
    (directory / path).write_text(json.dumps({**there, **said}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda at: break_file(at, "1_Pooling/config.json", pooling_mode_mean_tokens=False), "the pooling is none"),
        (lambda at: break_file(at, "1_Pooling/config.json", pooling_mode_weightedmean_tokens=True), "weightedmean"),
        (lambda at: break_file(at, "1_Pooling/config.json", include_prompt=False), "include_prompt is false"),
        (lambda at: break_file(at, "sentence_bert_config.json", do_lower_case=True), "do_lower_case is true"),
        (lambda at: break_file(at, "sentence_bert_config.json", max_seq_length="many"), "no number of tokens"),
        (lambda at: break_file(at, "config_sentence_transformers.json", prompts=[1]), "no map from names to texts"),
        (lambda at: break_file(at, "config_sentence_transformers.json", default_prompt_name="q"), "the prompts are none"),
        (lambda at: (at / "1_Pooling" / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda at: (at / "1_Pooling" / "config.json").write_text("[]"), "not an object of options"),
        (lambda at: add_dense(at, "torch.nn.modules.activation.ReLU"), "activation_function is relu; identity and tanh"),
        (lambda at: (add_dense(at), (at / "2_Dense" / "model.safetensors").unlink()), "no model.safetensors here"),
        (lambda at: (add_dense(at), (at / "2_Dense" / "model.safetensors").write_bytes(b"x")), "not the weights"),
    ],
)
def test_what_we_would_compute_otherwise_is_refused(of, model_dir, damage, told):
    damage(model_dir)
    assert told in refusal(lambda: of()[1].evaluation() and of()[1].modules)


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        (["Transformer", "Normalize", "Pooling"], "the modules are Transformer, Normalize, Pooling"),
        (["Transformer", "Pooling", "LayerNorm"], "goes on in a module 'LayerNorm'"),
    ],
)
def test_modules_in_another_order_are_refused(of, model_dir, modules, told):
    paths = {"Transformer": ""}
    listed = [{"idx": 0, "name": "0", "path": paths.get(name, "1_Pooling"), "type": f"s.{name}"} for name in modules]
    (model_dir / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    assert told in refusal(lambda: of()[1].modules)


def test_modules_outside_the_model_s_directory_are_refused(model_dir):
    listed = json.loads((model_dir / "modules.json").read_text(encoding="utf-8"))
    listed[1]["path"] = "../elsewhere"
    (model_dir / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    assert "lies outside the model's directory" in refusal(load_dense, model_dir)


def test_a_pretrained_model_with_pooling_is_an_encoder(model_dir, tmp_path):
    """As most embedders are published: what they were trained as says nothing of what they are used for."""
    other = heads.save_model("masked-lm", tmp_path / "pretrained")
    heads.save_modules(other)
    model = load_dense(other)
    assert type(model).__name__ == "BertModel"
    assert model.pooler is None  # which the checkpoint has not


def test_prompts_of_queries_and_documents(of, model_dir):
    heads.save_modules(model_dir, prompts={"query": "the ", "passage": "a song of "})
    _, task = of()
    raw = [text.decode() for text in task.raw(4)["TEXT"]]
    assert raw == ["the won army", "a song of the army lost", "the won king", "a song of the king lost"]
    samples = task.evaluation()
    assert [task.tokenizer(text)["input_ids"] for text in raw] == samples.encoded["input_ids"][:4]
    break_file(model_dir, "config_sentence_transformers.json", default_prompt_name="query")
    single = of([{"query": "won"}] * 8, {"text": "query"})[1]
    assert single.raw(1)["TEXT"] == [b"the won"]


def test_texts_alone_are_held_against_the_dense_model(of):
    model, task = of(columns={"text": "query"})
    samples = task.evaluation()
    assert (samples.labels, samples.together, len(samples)) == (None, 1, 6)
    run = torch_run(model, task)
    score = score_of(metric_of(run, task, samples, labels_of(run, task, samples)), samples)
    assert (score.metric, score.value) == ("cosine against the dense model", pytest.approx(100))


def test_pairs_stay_together_however_they_are_drawn(of):
    _, task = of(ROWS * 6)
    samples = task.calibration(20, 0)
    assert len(samples) == 20
    for index in range(0, 20, 2):
        assert (samples.labels[index] == samples.labels[index + 1]).all()
    order = samples.drawn(seed=1)
    assert sorted(order) == list(range(20))
    assert all(order[place + 1] == order[place] + 1 for place in range(0, 20, 2))


def test_pairs_with_a_score_are_compared(of):
    rows = [{"sentence1": row["query"], "sentence2": row["document"], "score": index / 5} for index, row in enumerate(ROWS)]
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "score"}
    assert Embeddings.guess_columns(dict.fromkeys(rows[0]), {}, "data") == columns
    _, task = of(rows, columns)
    samples = task.evaluation()
    assert task.metric(samples).name == "Spearman correlation"
    assert samples.labels.tolist() == [index / 5 for index in range(6) for _ in range(2)]
    rows[2]["score"] = "much"
    assert "the score is 'much', and no number" in refusal(of(rows, columns)[1].evaluation)


@pytest.mark.parametrize(
    ("metric", "columns", "told"),
    [
        ("ndcg@10", {"text": "query"}, "ndcg@10 is of queries and documents"),
        ("spearman", {"text": "query", "text_pair": "document"}, "spearman is of pairs with a score"),
    ],
)
def test_a_metric_that_the_data_has_not_is_refused(of, metric, columns, told):
    _, task = of(columns=columns, scoring={"metric": metric})
    assert told in refusal(task.metric, task.evaluation())


@pytest.mark.parametrize(
    ("features", "columns"),
    [
        (["query", "document"], {"text": "query", "text_pair": "document"}),
        (["anchor", "positive", "negative"], {"text": "anchor", "text_pair": "positive"}),
        (["question", "answer"], {"text": "question", "text_pair": "answer"}),
        (["sentence1", "sentence2", "score"], {"text": "sentence1", "text_pair": "sentence2", "label": "score"}),
        (["text", "label"], {"text": "text"}),
    ],
)
def test_columns_are_guessed(features, columns):
    assert Embeddings.guess_columns(dict.fromkeys(features), {}, "data") == columns
