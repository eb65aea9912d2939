import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="prune2deploy-tests-")

import shutil
from types import SimpleNamespace

import exports
import pytest
import tiny
import torch

WORKER = "PYTEST_XDIST_WORKER" in os.environ
torch.set_num_threads(1 if WORKER else 2)  # two workers fight for two cores

if not WORKER:
    os.environ[exports.FOLDER] = tempfile.mkdtemp(prefix="prune2deploy-tests-")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: started last, one of them would keep one worker busy while the other has nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_unconfigure():
    for mine in ("HF_DATASETS_CACHE", *([] if WORKER else [exports.FOLDER])):
        shutil.rmtree(os.environ[mine], ignore_errors=True)


@pytest.fixture
def shared_exports(monkeypatch):
    exports.share(monkeypatch)


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory):
    return tiny.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory):
    return tiny.save_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="session")
def text_data(bert_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("texts")
    tiny.write_jsonl(directory / "train.jsonl", tiny.taught(bert_dir, tiny.text_rows(40, seed=0)))
    tiny.write_jsonl(directory / "validation.jsonl", tiny.taught(bert_dir, tiny.text_rows(24, seed=1)))
    return directory


@pytest.fixture(scope="session")
def pair_data(bert_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pairs")
    tiny.write_jsonl(directory / "train.jsonl", tiny.taught(bert_dir, tiny.pair_rows(32, seed=2)))
    tiny.write_jsonl(directory / "validation.jsonl", tiny.taught(bert_dir, tiny.pair_rows(16, seed=3)))
    return directory


@pytest.fixture(scope="session")
def image_data(tmp_path_factory):
    return tiny.save_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def make_project():
    return tiny.make_project


@pytest.fixture
def dense_copy(bert_dir, tmp_path):
    """A copy of the tiny BERT that a test may damage."""
    return shutil.copytree(bert_dir, tmp_path / "damaged")


@pytest.fixture(params=["bert", "vit"])
def case(request, tmp_path):
    """A model of each family with its task and real samples, for what must hold of every family."""
    model_dir = request.getfixturevalue(f"{request.param}_dir")
    data, task = {
        "bert": ("text_data", "text-classification"), "vit": ("image_data", "image-classification")
    }[request.param]  # fmt: skip
    project = tiny.make_project(model_dir, request.getfixturevalue(data), task, tmp_path)
    model, task = tiny.loaded_task(project)
    return SimpleNamespace(
        family=request.param,
        directory=model_dir,
        project=project,
        model=model,
        task=task,
        samples=task.evaluation(),
    )
