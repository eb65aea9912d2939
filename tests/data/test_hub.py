"""Data sets of the hub, and folders that are called alike."""

import json
import shutil

import datasets
import pytest
from test_splits import refusal

from prune2deploy.data.splits import left_out, open_data

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no way to the hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


def save(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.csv").write_text(f"text,label\n{text},1\nNone,0\n")


def test_folder_is_read_by_us_and_not_from_the_cache(tmp_path, cache):
    here = tmp_path / "here"
    save(here / "mine", "old")
    assert datasets.load_dataset("mine")["train"][0]["text"] == "old"
    save(here / "mine", "new")
    assert list(open_data("mine", here)["train"]["text"]) == ["new", "None"]


@pytest.mark.parametrize("name", ["mine", "org/mine"])
def test_folders_have_no_configurations(tmp_path, cache, name):
    save(tmp_path / "here" / name / "sst2", "a")
    message = refusal(open_data, f"{name}:sst2", tmp_path / "here")
    assert f"{name} is a local folder, and those have no configurations" in message
    assert f"{name}/sst2" in message


@pytest.mark.parametrize("path", ["mine", "mine:default"])
def test_folder_in_the_current_directory_is_no_data_of_a_project_elsewhere(tmp_path, cache, path):
    save(tmp_path / "here" / "mine", "a")
    message = refusal(open_data, path, tmp_path)
    assert f"there is no mine in {tmp_path}, but one in {tmp_path / 'here'}; write its whole path" in message


@pytest.mark.parametrize("path", ["mine", "mine:default"])
def test_what_the_cache_has_of_a_folder_is_not_the_hubs(tmp_path, cache, path):
    save(tmp_path / "here" / "mine", "a")
    datasets.load_dataset("mine")
    shutil.rmtree(tmp_path / "here" / "mine")
    message = refusal(open_data, path, tmp_path / "here")
    assert f"data {path!r}: nothing of that name here, and the hub did not give it" in message
    assert "was made of a local folder" in message


def test_what_the_cache_has_of_the_hub_is(tmp_path, cache):
    save(tmp_path / "here" / "mine", "a")
    datasets.load_dataset("mine")
    (made,) = cache.glob("mine/default/0.0.0/*/")
    kept = cache / "org___mine" / "default" / "0.0.0" / COMMIT
    kept.parent.mkdir(parents=True)
    shutil.move(made, kept)
    info = json.loads((kept / "dataset_info.json").read_text())
    (kept / "dataset_info.json").write_text(json.dumps({**info, "dataset_name": "mine"}))
    assert list(open_data("org/mine", tmp_path)["train"]["label"]) == [1, 0]


@pytest.mark.parametrize("path", ["", " "])
def test_path_that_names_nothing(tmp_path, path):
    assert "names nothing; name a file" in refusal(open_data, path, tmp_path)


def test_name_that_is_too_long(tmp_path):
    for path in ("x" * 5000, "./" + "x" * 5000, "x/" * 5000):
        for function in (open_data, left_out):
            message = refusal(function, path, tmp_path)
            assert "is too long for a name" in message
            assert len(message) < 300


def test_link_to_nothing(tmp_path):
    (tmp_path / "gone").symlink_to("nowhere")
    assert "gone: links to nowhere, which is not there" in refusal(open_data, "gone", tmp_path)
