import json
import random

import numpy as np
import pytest
import scipy.stats
import tiny
import torch
from steady import answer, cli, install, refused
from transformers import BertForSequenceClassification

from prune2deploy.config import WorkloadPoint
from prune2deploy.tasks.base import LOGITS
from prune2deploy.tasks.metrics import RankCorrelation
from prune2deploy.tasks.predict import labels_of, metric_of, torch_run
from prune2deploy.tasks.registry import task_for
from prune2deploy.tasks.text_classification import TextClassification
from prune2deploy.tasks.text_scores import TextScores

START = ("--batch", 2, "--seq-len", 8, "--threads", 1, "--samples", 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny reranker and pairs with the scores that it gives them itself, and some noise."""
    root = tmp_path_factory.mktemp("scores")
    tiny.save_bert(root / "model", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0}, problem_type="regression")
    model = BertForSequenceClassification.from_pretrained(root / "model").eval()
    tokenizer = tiny.AutoTokenizer.from_pretrained(root / "model")
    rng = random.Random(1)
    (root / "data").mkdir()
    for split, count in (("train", 40), ("validation", 24)):
        rows = tiny.pair_rows(count, seed=count)
        for row in rows:
            with torch.no_grad():
                logit = model(**tokenizer(row["sentence1"], row["sentence2"], return_tensors="pt")).logits
            row["label"] = round(float(logit) + rng.gauss(0, 0.05), 4)
        tiny.write_jsonl(root / "data" / f"{split}.jsonl", rows)
    return root


@pytest.fixture
def task(folder, tmp_path):
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    project = tiny.make_project(folder / "model", folder / "data", "text-scores", tmp_path, data_columns=columns)
    project = project.model_copy(update={"workload": [WorkloadPoint(batch=2, seq_len=8)]})
    return tiny.loaded_task(project)


def test_one_output_is_a_score(task, bert_dir):
    model, made = task
    assert isinstance(made, TextScores)
    assert task_for(model.config) is TextScores
    assert task_for(BertForSequenceClassification.from_pretrained(bert_dir).config) is TextClassification


def test_labels_are_the_numbers_of_the_data(task, folder):
    lines = (folder / "data" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    np.testing.assert_allclose(task[1].evaluation().labels, [json.loads(line)["label"] for line in lines], rtol=1e-6)


def test_the_score_is_spearmans_correlation(task):
    model, made = task
    samples = made.evaluation()
    metric = metric_of(torch_run(model, made), made, samples, samples.labels)
    with torch.no_grad():
        said = np.concatenate([model(**samples.batch([index]).tensors()).logits[:, 0] for index in range(len(samples))])
    assert metric.score().value == pytest.approx(100 * scipy.stats.spearmanr(said, samples.labels).statistic)
    assert metric.score().standard_error > 0
    assert metric_of(made.constant(samples.labels), made, samples, samples.labels).score().value == 0


@pytest.mark.parametrize("seed", range(3))
def test_ties_share_their_rank(seed):
    rng = np.random.default_rng(seed)
    said, right = rng.integers(0, 5, 30).astype(float), rng.integers(0, 4, 30).astype(float)
    metric = RankCorrelation(LOGITS)
    for part in (slice(0, 11), slice(11, 30)):
        metric.update({LOGITS: said[part, None]}, right[part])
    assert metric.score().value == pytest.approx(100 * scipy.stats.spearmanr(said, right).statistic)


def test_without_labels_the_dense_model_is_right(task):
    model, made = task
    samples = made.evaluation()
    samples.labels = None
    run = torch_run(model, made)
    labels = labels_of(run, made, samples)
    assert labels.shape == (len(samples),)
    assert metric_of(run, made, samples, labels).score().value == pytest.approx(100)


@pytest.mark.parametrize(
    ("value", "says"), [("good", "the score is 'good', and no number"), (None, "no number"), (True, "no number")]
)
def test_what_is_no_number_is_told_with_its_line(folder, value, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in (folder / "data" / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[3]["label"] = value
    for split in ("train", "validation"):
        tiny.write_jsonl(tmp_path / f"{split}.jsonl", rows)
    refused(cli("init", folder / "model", "--data", tmp_path, *START), "validation.jsonl, line 4", says)


@pytest.mark.parametrize(
    ("relevance", "says"), [((1, 0, -1), "the relevance is -1: give 0"), ((0, 0, 0), "no query has a relevant passage")]
)
def test_relevance_is_0_or_more_and_somewhere_more(folder, relevance, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"query": f"won {number // 3}", "passage": f"lost {number}", "label": relevance[number % 3]} for number in range(30)
    ]
    for split in ("train", "validation"):
        tiny.write_jsonl(tmp_path / f"{split}.jsonl", rows)
    refused(cli("init", folder / "model", "--data", tmp_path, *START), says)


def test_tasks_and_models_must_fit(folder, bert_dir, text_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(
        cli("init", bert_dir, "--data", text_data, *START, "--task", "text-scores"),
        "needs a model …ForSequenceClassification with one output", "with 3 outputs",
    )  # fmt: skip
    refused(
        cli("init", folder / "model", "--data", folder / "data", *START, "--task", "text-classification"),
        "with two outputs or more", "with 1 output",
    )  # fmt: skip


@pytest.mark.slow
def test_the_whole_way(folder, tmp_path, monkeypatch):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    begun = answer(cli("init", folder / "model", "--data", folder / "data", *START, "--json"))
    assert begun["project"]["task"] == "text-scores"
    assert begun["dense"]["metric"] == "Spearman correlation"
    assert answer(cli("profile", "--json"))
    said = answer(cli("run", "--speedup", 1.4, "--with-tokenizer", "--json"))
    assert (said["verdict"], said["metric_pruned"]["metric"]) == ("passed", "Spearman correlation")
    assert answer(cli("validate", said["path"], "--json"))["passed"]
    assert {path.name for path in (tmp_path / "model_repository").iterdir()} == {
        "model", "model_preprocess", "model_text", "model_rerank"
    }
    assert answer(cli("repository", "check", "--json"))
