"""A folder that sentence-transformers loads: what is in it, and that the real library makes the same of it."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import sentence_library
import torch
from steady import answer, cli, install, refused
from tiny import loaded_task

from prune2deploy.tasks.predict import outputs_of, torch_run

pytest_plugins = ("answers",)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(answering):
    """By the name of the head: the folder that `export --layout` made, and what it said."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        for head in ("embeddings", "reranking"):
            root = answering.of[head].project.root
            patch.chdir(root)
            said = answer(cli("export", "--layout", "sentence-transformers", "--out", "folder", "--json"))
            found[head] = (root / "folder", said)
    return found


@pytest.fixture
def library():
    if reason := sentence_library.why_not():
        pytest.skip(reason)
    return sentence_library


def test_the_folder_has_what_the_library_reads_and_no_other_weights(folders):
    folder, said = folders["embeddings"]
    assert said["verdict"] == "passed"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"modules.json", "1_Pooling/config.json", "config.json", "tokenizer.json", "onnx/model.onnx",
            "sentence_bert_config.json", "manifest.json", "report.html"} <= files  # fmt: skip
    assert not any(name.endswith(".safetensors") for name in files - {"reference.safetensors"})
    graph = onnx.load(folder / "onnx" / "model.onnx").graph
    assert {"last_hidden_state", "sentence_embedding"} == {output.name for output in graph.output}


def test_both_outputs_say_the_same(answering, folders):
    made = answering.of["embeddings"]
    _, task = loaded_task(made.project)
    batch = task.evaluation().batch([0, 1, 2, 3])
    session = onnxruntime.InferenceSession(str(folders["embeddings"][0] / "onnx" / "model.onnx"))
    given = {entry.name: batch.inputs[entry.name] for entry in session.get_inputs()}
    said = dict(zip([entry.name for entry in session.get_outputs()], session.run(None, given), strict=True))
    mask = torch.from_numpy(batch.inputs["attention_mask"])
    pooled = task.modules.vectors(torch.from_numpy(said["last_hidden_state"]), mask)
    np.testing.assert_allclose(said["sentence_embedding"], pooled, atol=1e-6)


def test_the_library_makes_the_same_vectors(answering, folders, library):
    made = answering.of["embeddings"]
    _, task = loaded_task(made.project)
    texts = [text.decode() for text in task.raw(20)["TEXT"]]
    wanted = outputs_of(torch_run(made.pruned, task), task, task.evaluation())["sentence_embedding"].values[:20]
    said = library.asked(library.ENCODE, folders["embeddings"][0], texts)
    np.testing.assert_allclose(said["vectors"], wanted, atol=1e-5)
    assert said["length"] == task.limit


def test_the_library_gives_the_same_scores(answering, folders, library):
    made = answering.of["reranking"]
    _, task = loaded_task(made.project)
    raw = task.raw(12)
    pairs = [[text.decode() for text in pair] for pair in zip(*raw.values(), strict=True)]
    wanted = outputs_of(torch_run(made.pruned, task), task, task.evaluation())["logits"].values[:12, 0]
    np.testing.assert_allclose(library.asked(library.SCORE, folders["reranking"][0], pairs), wanted, atol=1e-5)


def test_a_folder_can_be_validated_and_damage_is_seen(folders, tmp_path, monkeypatch):
    install(monkeypatch)
    folder, _ = folders["embeddings"]
    monkeypatch.chdir(folder.parent)
    found = answer(cli("validate", folder, "--json"))
    assert found["passed"]
    assert {"files", "valid ONNX", "reference outputs", "task metric"} <= {check["name"] for check in found["checks"]}
    monkeypatch.chdir(tmp_path)
    for name, damage in (
        ("1_Pooling/config.json", lambda path: path.write_text("{}")), ("onnx/model.onnx", lambda path: path.unlink()),
        ("more.txt", lambda path: path.write_text("x")),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace('"dense_ms"', '"dense_ms" '))),
    ):  # fmt: skip
        copied = shutil.copytree(folder, tmp_path / name.replace("/", "-"))
        damage(copied / name)
        result = cli("validate", copied, "--json")
        if name == "manifest.json":  # spaces change nothing
            assert json.loads(result.stdout)["passed"]
            continue
        assert result.exit_code == 1
        assert name in json.loads(result.stdout)["checks"][0]["detail"]


def test_what_is_there_is_not_overwritten_and_others_are_refused(answering, folders, monkeypatch):
    monkeypatch.chdir(folders["embeddings"][0].parent)
    refused(cli("export", "--layout", "sentence-transformers", "--out", "folder"), "folder")
    monkeypatch.chdir(answering.of["token-classification"].project.root)
    refused(cli("export", "--layout", "sentence-transformers"), "is for embedders (embeddings) and cross-encoders")


def test_a_failed_check_leaves_nothing(answering, folders, monkeypatch):
    install(monkeypatch)
    root = answering.of["embeddings"].project.root
    monkeypatch.chdir(root)
    result = cli("export", "--layout", "sentence-transformers", "--out", "failed", "--max-loss", 0.001)
    assert result.exit_code == 1
    assert "nothing was exported" in result.output
    assert not (root / "failed").exists()

