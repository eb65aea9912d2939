"""Every task to the end: what a real server answers is what transformers says of the pruned model."""

import heads
import numpy as np
import pytest
import torch
from answers import name
from steady import answer, cli, refused
from tiny import loaded_task
from transformers import AutoTokenizer, pipeline

from prune2deploy.errors import InputError
from prune2deploy.serving import Client
from prune2deploy.serving.bench import bench

pytest_plugins = ("answers",)
pytestmark = pytest.mark.slow

TEXTS = ["won lost team", "the old house of war and the great army", "a", "", "Ärger in 東京 \u202e 😀", "goal match " * 40]
METRICS = {
    "multi-label": "micro-F1", "token-classification": "entity F1", "question-answering": "F1", "masked-lm": "accuracy",
    "embeddings": "nDCG@10", "reranking": "nDCG@10", "multiple-choice": "accuracy",
}  # fmt: skip


@pytest.fixture
def client(server):
    with Client(server.url) as connection:
        yield connection


def of(answering, task):
    """(the pruned model, the tokenizer, the task) of a head."""
    made = answering.of[task]
    return made.pruned, AutoTokenizer.from_pretrained(made.project.resolve("model")), loaded_task(made.project)[1]


@pytest.mark.parametrize("task", list(heads.HEADS))
def test_every_head_goes_the_whole_way(answering, task):
    said = answering.of[task].said
    assert said["init"]["project"]["task"] == heads.KINDS.get(task, task)
    assert (said["export"]["verdict"], said["export"]["metric_dense"]["metric"]) == ("passed", METRICS[task])
    assert said["validate"]["passed"]
    names = {check["name"] for check in said["export"]["checks"] if check["passed"]}
    assert {"ONNX equals PyTorch", "any batch, any length", "package answers as transformers' pipeline"} <= names


def test_the_repository_is_whole(answering):
    found = answer(cli("repository", "check", answering.repository, "--json"))["entries"]
    assert all(not entry["problems"] for entry in found)


def test_labels_are_those_of_the_pipeline(answering, client):
    model, tokenizer, _ = of(answering, "multi-label")
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, function_to_apply="sigmoid", top_k=None)
    found = client.ask("multi_label_text", TEXTS)
    for text, each in zip(TEXTS, found, strict=True):
        wanted = classify(text, truncation=True)
        wanted = wanted[0] if isinstance(wanted[0], list) else wanted
        given = sorted((row for row in wanted if row["score"] >= 0.5), key=lambda row: -row["score"])
        assert each["LABELS"] == [row["label"] for row in given]
        scores = {row["label"]: row["score"] for row in wanted}
        np.testing.assert_allclose(each["SCORES"], [scores[mood] for mood in heads.MOODS], atol=1e-5)


def test_entities_are_those_of_the_pipeline(answering, client):
    model, tokenizer, _ = of(answering, "token-classification")
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
    for text, each in zip(TEXTS, client.ask("token_classification_text", TEXTS), strict=True):
        wanted = tag(text) if text else []
        assert [(row["entity_group"], row["start"], row["end"]) for row in each["ENTITIES"]] == [
            (row["entity_group"], row["start"], row["end"]) for row in wanted
        ]
        np.testing.assert_allclose([row["score"] for row in each["ENTITIES"]], [row["score"] for row in wanted], atol=1e-5)


def test_vectors_are_those_of_the_model(answering, client):
    model, tokenizer, task = of(answering, "embeddings")
    for text, each in zip(TEXTS, client.ask("embeddings_text", TEXTS), strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, truncation=True, max_length=24, return_tensors="pt")).last_hidden_state[0]
        wanted = hidden.mean(0) / hidden.mean(0).norm()
        np.testing.assert_allclose(each["EMBEDDING"], wanted, atol=1e-5)
    assert task.limit == 24  # as sentence_bert_config.json says, and not the tokenizer's 32


def test_passages_get_the_scores_of_pairs(answering, client):
    model, tokenizer, _ = of(answering, "reranking")
    passages = ["a house", "won the match against the army of the king", *TEXTS] * 3  # more than the model takes at once
    with torch.no_grad():
        wanted = [
            float(model(**tokenizer("lost battle", *([each] if each else []), truncation=True, return_tensors="pt")).logits)
            for each in passages
        ]
    [found] = client.ask("reranking_rerank", ["lost battle"], passages)
    np.testing.assert_allclose(found["SCORES"], wanted, atol=1e-5)
    pairs = client.ask("reranking_text", ["lost battle"] * 2, passages[:2])
    np.testing.assert_allclose([each["LOGITS"] for each in pairs], wanted[:2], atol=1e-5)


def test_the_choice_is_that_of_the_model(answering, client):
    model, tokenizer, _ = of(answering, "multiple-choice")
    for text in TEXTS:
        choices = ["a house", text or "b", "won the match against the army of the king " * 9]
        said = []
        with torch.no_grad():
            for choice in choices:
                pair = tokenizer(text, choice, truncation=True, return_tensors="pt")
                said.append(float(model(**{name: tensor[None] for name, tensor in pair.items()}).logits))
        [found] = client.ask("multiple_choice_choices", [text], choices)
        assert found["CHOICE"] == int(np.argmax(said))
        np.testing.assert_allclose(found["SCORES"], torch.tensor(said).softmax(0), atol=1e-5)
    with pytest.raises(InputError, match="2 choices, and the model takes 3"):
        client.ask("multiple_choice_choices", ["a"], ["b", "c"])


def best_by_hand(model, tokenizer, question, context, limit):
    """(score, start, end) over windows that are cut and judged here, token by token."""
    ids = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
    asked = tokenizer(question, add_special_tokens=False)["input_ids"]
    room = limit - len(asked) - 3
    step = room - min(128, room // 2)
    best, start = (-np.inf, 0, 0), 0
    while True:
        part = ids["input_ids"][start : start + room]
        tokens = [tokenizer.cls_token_id, *asked, tokenizer.sep_token_id, *part, tokenizer.sep_token_id]
        types = [0] * (len(asked) + 2) + [1] * (len(part) + 1)
        with torch.no_grad():
            said = model(input_ids=torch.tensor([tokens]), token_type_ids=torch.tensor([types]))
        first = len(asked) + 2
        for begin in range(len(part)):
            for end in range(begin, len(part)):
                score = float(said.start_logits[0, first + begin] + said.end_logits[0, first + end])
                if score > best[0]:
                    offsets = ids["offset_mapping"]
                    best = (score, offsets[start + begin][0], offsets[start + end][1])
        if start + room >= len(ids["input_ids"]):
            return best
        start += step


@pytest.mark.parametrize("context", ["a house of the king", "the old army won a battle in the city and lost the war " * 4])
def test_answers_are_the_best_stretches_of_all_windows(answering, client, context):
    model, tokenizer, task = of(answering, "question-answering")
    [found] = client.ask("question_answering_question", ["won the goal"], [context])
    _, start, end = best_by_hand(model, tokenizer, "won the goal", context, task.limit)
    assert found["SPAN"] == [start, end]
    assert found["ANSWER"] == context[start:end]
    assert 0 < found["SCORE"] <= 1


def test_several_questions_at_once_are_answered_as_each_alone(answering, client):
    from prune2deploy.serving.client import strings

    questions, contexts = ["won", "the army", "king"], ["a house of war", "the old city " * 20, "goal"]
    rows = [strings([text.encode() for text in column]) for column in (questions, contexts)]
    together = client.infer("question_answering_question", dict(zip(("QUESTION", "CONTEXT"), rows, strict=True))).outputs
    for place, alone in enumerate(client.ask("question_answering_question", questions, contexts)):
        assert together["ANSWER"][place, 0].decode() == alone["ANSWER"]
        assert together["SPAN"][place].tolist() == alone["SPAN"]


def test_what_cannot_be_answered_is_said(client):
    with pytest.raises(InputError, match="ask a shorter one"):
        client.ask("question_answering_question", ["won " * 40], ["a house"])
    with pytest.raises(InputError, match="QUESTION and CONTEXT: give as many of each"):
        client.ask("question_answering_question", ["won"])
    with pytest.raises(InputError, match="give as many of each"):
        client.ask("reranking_text", ["won", "lost"], ["a"])


@pytest.mark.parametrize("ensemble", ["embeddings_text", "token_classification_text", "multi_label_text", "reranking_text"])
def test_ragged_requests_under_load_are_answered_right(answering, server, ensemble):
    result, _ = bench(server.url, ensemble, answering.repository, concurrency=4, seconds=0.5)
    assert result.passed, result.lines()


def test_the_command_line_prints_them(answering, server):
    said = answer(cli("client", server.url, "token_classification_text", "won the match", "--json"))
    assert said["answers"][0]["input"] == "won the match"
    assert all(entity["end"] <= 13 for entity in said["answers"][0]["ENTITIES"])
    told = cli("client", server.url, "question_answering_question", "won", "--pair", "a house of war")
    assert "ANSWER" in told.output
    assert "EMBEDDING" in cli("client", server.url, "embeddings_text", "won").output
    refused(cli("bench", server.url, "question_answering_question", "--repository", answering.repository), "the chain step")


def test_a_model_without_answers_is_not_served_from_texts(answering, monkeypatch):
    project = answering.of["masked-lm"].project
    monkeypatch.chdir(project.root)
    refused(cli("export", "--with-tokenizer"), "masked-lm gives nothing that a server could answer with")


def test_names_of_entries(answering):
    names = {path.name for path in answering.repository.iterdir()}
    assert {name(task) for task in heads.HEADS} <= names
    assert {"question_answering_question", "reranking_rerank", "multi_label_multi_labels"} <= names
