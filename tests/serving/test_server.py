import json
import threading
import time

import numpy as np
import packages
import pytest
import torch
import tritonclient.http
import tritonserver
from packages import ragged
from said import logits_of
from steady import answer, cli, refused
from tiny import loaded_task
from typer.testing import CliRunner

from prune2deploy.cli import app
from prune2deploy.errors import InputError
from prune2deploy.models.checkpoint import load
from prune2deploy.serving import Client
from prune2deploy.serving.client import strings

pytest_plugins = ("made", "served")

LONG = "won lost team goal match " * 40


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    with Client(server.url if request.param == "http" else server.grpc_url) as connection:
        yield connection


def test_every_entry_is_served(server, exported):
    names = {path.name for path in exported.repository.iterdir()}
    assert names == {"topics_dense"} | {
        f"{name}{step}" for name, kind in (("topics", "text"), ("pairs", "text"), ("pictures", "image"))
        for step in ("", "_preprocess", "_labels", f"_{kind}")
    }  # fmt: skip
    with Client(server.url) as client:
        assert all(client.ready(name) for name in names)
        assert not client.ready("nothing")


@pytest.mark.parametrize("name", ["topics", "topics_dense"])
def test_answers_are_those_of_the_exported_graph(client, name, session_of):
    rng = np.random.default_rng(0)
    for batch in range(1, 9):
        for length in (3, 8, 17, 32):
            inputs = ragged(rng, batch, length)
            answered = client.infer(name, inputs)
            assert answered.version == "1"
            np.testing.assert_allclose(answered.outputs["logits"], session_of(name, inputs), rtol=1e-5, atol=1e-6)


def test_pixels_too(client, session_of):
    pixels = {"pixel_values": np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)}
    answered = client.infer("pictures", pixels).outputs["logits"]
    np.testing.assert_allclose(answered, session_of("pictures", pixels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["topics", "pairs", "pictures"])
def test_raw_samples_get_the_labels_of_the_pytorch_model(client, exported, name, request):
    made = {"topics": "bert", "pairs": "pairs", "pictures": "vit"}[name]
    project, pruned = exported.projects[name], load(request.getfixturevalue(f"{made}_made").pruned)
    _, task = loaded_task(project)
    samples = task.evaluation()
    wanted = logits_of(pruned, task, samples)
    found = client.predictions(f"{name}_{task.served}", task.raw(len(samples)))  # in several requests
    np.testing.assert_allclose([each.logits for each in found], wanted, rtol=1e-4, atol=1e-4)
    assert [each.label for each in found] == [task.label_names()[index] for index in wanted.argmax(1)]
    shares = torch.tensor(wanted).softmax(-1).max(-1).values
    np.testing.assert_allclose([each.score for each in found], shares, atol=1e-4)


def test_texts_of_any_length_and_any_letters(client, bert_made, exported):
    _, task = loaded_task(exported.projects["topics"])
    texts = ["", "a", LONG, "Ärger mit Straße 東京 \u202e\0 😀", "WON  the\tgoal\n"]
    pruned = load(bert_made.pruned)
    tokens = task.tokenizer(texts, truncation=True, max_length=task.limit, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = pruned(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.numpy()
    found = client.classify("topics_text", texts)
    np.testing.assert_allclose([each.logits for each in found], wanted, rtol=1e-4, atol=1e-4)


def totals(client, model, samples=0, seconds=10):
    """(samples, executions) over all versions, when `samples` are counted: an answer is sent before it is."""
    until = time.monotonic() + seconds
    while True:
        found = np.sum(list(client.statistics(model).values()), axis=0)
        if found[0] >= samples or time.monotonic() > until:
            return found
        time.sleep(0.01)


def ones(*shape, dtype=np.int64):
    return np.ones(shape, dtype)


WRONG = {
    "too many rows": ({"input_ids": ones(9, 4), "attention_mask": ones(9, 4)}, "<= 8"),
    "another type": ({"input_ids": ones(1, 4, dtype=np.int32), "attention_mask": ones(1, 4)}, "expects 'INT64'"),
    "another name": ({"ids": ones(1, 4), "attention_mask": ones(1, 4)}, "'ids'"),
    "one too few": ({"input_ids": ones(1, 4)}, "expected 2 inputs"),
    "another rank": ({"input_ids": ones(1, 4, 1), "attention_mask": ones(1, 4)}, "shape"),
    "no such token": ({"input_ids": ones(1, 4) * 10**6, "attention_mask": ones(1, 4)}, "out of"),
    "longer than the model": ({"input_ids": ones(1, 999), "attention_mask": ones(1, 999)}, "onnx"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_get_the_servers_reason_and_it_lives(client, server, case):
    inputs, needle = WRONG[case]
    with pytest.raises(InputError) as error:
        client.infer("topics", inputs)
    assert needle.lower() in str(error.value).lower()
    assert server.alive()
    assert client.classify("topics_text", ["won the goal"])


def test_bad_requests_among_good_ones_spoil_only_themselves(server, session_of):
    good = ragged(np.random.default_rng(0), 1, 8)
    bad = {**good, "input_ids": good["input_ids"] + 10**6}
    wanted, problems, refusals = session_of("topics", good), [], []

    def send(inputs, seen):
        with Client(server.grpc_url) as client:
            for _ in range(60):
                try:
                    given = client.infer("topics", inputs).outputs["logits"]
                except InputError as error:
                    seen.append(str(error))
                else:
                    if not np.allclose(given, wanted, rtol=1e-4, atol=1e-5):
                        seen.append("wrong")

    threads = [threading.Thread(target=send, args=pair) for pair in [(good, problems), (bad, refusals)] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.alive()
    assert problems == []
    assert len(refusals) == 3 * 60
    assert all("out of" in each for each in refusals)


def test_what_is_no_text_and_no_image(client, server):
    with pytest.raises(InputError, match="a text is not UTF-8"):
        client.infer("topics_text", {"TEXT": strings([b"\xff\xfe"])})
    with pytest.raises(InputError, match="not a readable image"):
        client.classify_images("pictures_image", [b"no image"])
    with pytest.raises(InputError, match=r"'topics' takes input_ids, attention_mask, not TEXT; .*topics_text"):
        client.classify("topics", ["a text"])
    with pytest.raises(InputError, match=r"'pairs_text' takes TEXT, TEXT_PAIR, not TEXT$"):
        client.classify("pairs_text", ["a text"])
    with pytest.raises(InputError, match="as many second texts"):
        client.classify("pairs_text", ["a text"], ["one", "two"])
    with pytest.raises(InputError, match="nothing"):
        client.classify("nothing", ["a text"])
    assert server.alive()


def test_label_file_belongs_to_the_output(server, session_of):
    inputs = ragged(np.random.default_rng(0), 1, 8)
    module = tritonclient.http
    tensors = [module.InferInput(name, list(array.shape), "INT64") for name, array in inputs.items()]
    for tensor, array in zip(tensors, inputs.values(), strict=True):
        tensor.set_data_from_numpy(array)
    wanted = int(session_of("topics", inputs).argmax())
    asked = [module.InferRequestedOutput("logits", class_count=1)]
    with Client(server.url) as client:
        [said] = client.connection.infer("topics", tensors, outputs=asked).as_numpy("logits").ravel()
    assert said.decode().split(":")[1:] == [str(wanted), ("art", "sport", "war")[wanted]]


def test_requests_of_many_clients_are_batched(server):
    texts = ["won", "the army fought a battle", "a man painted the new house in the old city"]  # one bucket

    def send():
        with Client(server.url) as client:
            for turn in range(40):
                client.classify("topics_text", [texts[turn % 3]])

    with Client(server.url) as client:
        before = totals(client, "topics")
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        samples, executions = totals(client, "topics", before[0] + 8 * 40) - before
    assert samples == 8 * 40
    assert executions < samples


def test_repeated_requests_come_from_the_cache_where_that_was_asked_for(needs_server, tmp_path):
    packages.release(tmp_path / "models", "cached", response_cache=True)
    packages.release(tmp_path / "models", "uncached")
    inputs = ragged(np.random.default_rng(0), 2, 8)
    with (
        tritonserver.Server(tmp_path / "models", "--cache-config=local,size=1048576") as server,
        Client(server.url) as client,
    ):
        for name in ("cached", "uncached"):
            before = totals(client, name)
            for _ in range(5):
                np.testing.assert_array_equal(client.infer(name, inputs).outputs["logits"], packages.expected(inputs, 1))
            run = 1 if name == "cached" else 5
            _, executions = totals(client, name, before[0] + 2 * run) - before
            assert executions == run


# the command line


def test_client_prints_labels(server, exported, bert_made, vit_made):
    result = cli("client", server.url, "topics_text", "won the goal", "the king fought")
    assert result.exit_code == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[2] for line in lines] == ["won the goal", "the king fought"]
    assert {line[0] for line in lines} <= {"art", "sport", "war"}
    said = answer(cli("client", server.grpc_url, "topics_text", "won the goal", "--json"))
    assert said["predictions"][0]["label"] == lines[0][0]
    piped = CliRunner().invoke(app, ["client", server.url, "topics_text"], input="won the goal\n\nthe king fought\n")
    assert [line.split("\t")[2] for line in piped.stdout.splitlines()] == ["won the goal", "", "the king fought"]
    refused(cli("client", server.url, "topics_text"), "nothing to send")
    _, task = loaded_task(exported.projects["pictures"])
    image = next((vit_made.project.resolve(vit_made.project.data.path) / "validation").glob("*.png"))
    [found] = answer(cli("client", server.url, "pictures_image", "--image", image, "--json"))["predictions"]
    assert found["label"] in task.label_names()
    [found] = answer(cli("client", server.url, "pairs_text", "won", "--pair", "lost", "--json"))["predictions"]
    assert found["input"] == "won"


@pytest.mark.parametrize(
    ("model", "load"), [("topics_text", ["--concurrency", 4]), ("topics", ["--concurrency", 2]),
                        ("pictures_image", ["--concurrency", 2]), ("topics_text", ["--rate", 40])],
)  # fmt: skip
def test_bench_measures_and_checks_every_answer(server, exported, tmp_path, model, load):
    out = tmp_path / "result.json"
    said = answer(cli(
        "bench", server.url, model, "--repository", exported.repository, "--seconds", 1.5, *load, "--out", out, "--json"
    ))  # fmt: skip
    assert said["failed"] == said["wrong"] == 0
    assert said["requests"] > 10
    assert 0 < said["p50_ms"] <= said["p90_ms"] <= said["p95_ms"]
    assert (said["p99_ms"] is None) == (said["requests"] < 1000)
    assert said["executed_samples"] >= said["executions"] > 0
    assert said["largest_difference"] <= said["tolerance"]
    assert out.is_file()
    assert out.with_suffix(".svg").read_text(encoding="utf-8").count("<svg") == 1
    if "--rate" in load:
        assert 20 < said["requests"] < 100, "they arrive whether or not others are answered"


def test_bench_finds_wrong_answers(server, scratch_copy, tmp_path):
    from prune2deploy.files import read_arrays, write_arrays

    file = scratch_copy / "topics" / "1" / "reference.safetensors"
    arrays = read_arrays(file)
    arrays["output.logits"] = arrays["output.logits"] + np.float32(0.5)
    write_arrays(file, arrays)
    result = cli("bench", server.url, "topics_text", "--repository", scratch_copy, "--seconds", 1, "--out",
                 tmp_path / "result.json")  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout.startswith("FAILED")
    assert "off by at most 0.5" in result.stdout


def test_bench_says_when_a_rate_was_not_met(server, exported, tmp_path):
    result = cli("bench", server.url, "topics_text", "--repository", exported.repository, "--seconds", 1, "--rate", 50_000,
                 "--out", tmp_path / "result.json")  # fmt: skip
    assert result.exit_code == 1
    assert "the rate was not met" in result.stdout
    said = json.loads((tmp_path / "result.json").read_text())
    assert said["seconds"] < 10
    assert said["unsent"] > 10_000
    assert said["failed"] == said["wrong"] == 0


def test_bench_names_the_version_that_answers(server, scratch_copy, tmp_path):
    where = ["--repository", scratch_copy, "--seconds", 1, "--out", tmp_path / "result.json"]
    said = answer(cli("bench", server.url, "topics_dense", *where, "--json"))
    assert (said["versions"], said["newest"]) == (["1"], "1")
    (scratch_copy / "topics_dense" / "1").rename(scratch_copy / "topics_dense" / "2")
    result = cli("bench", server.url, "topics_dense", *where)
    assert "the server has version 1, this repository 2" in result.stdout


def test_server_that_dies_is_counted(needs_server, tmp_path):
    packages.release(tmp_path / "models", "sums")
    with tritonserver.Server(tmp_path / "models") as server:
        threading.Timer(2.5, server.kill).start()
        result = cli("bench", server.url, "sums", "--repository", tmp_path / "models", "--seconds", 4, "--out",
                     tmp_path / "result.json")  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout.startswith("FAILED")
    said = json.loads((tmp_path / "result.json").read_text())
    assert said["requests"] > 0
    assert said["failed"] > 0
    assert "executions" not in said


def test_bench_of_what_is_not_served(server, exported, tmp_path):
    where = ["--repository", exported.repository, "--out", tmp_path / "result.json"]
    refused(cli("bench", server.url, "topics_labels", *where), "is the labels step")
    refused(cli("bench", "127.0.0.1:9", "topics", *where), "no answer for 'topics'")
    refused(cli("bench", server.url, "none", *where), "no such package")
    refused(cli("bench", server.url, "topics", *where, "--rate", 3, "--concurrency", 2), "one of --concurrency and --rate")
    refused(cli("bench", server.url, "topics", *where, "--rate", 0), "--rate above 0")
    assert not (tmp_path / "result.json").exists()
