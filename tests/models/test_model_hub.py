"""Models of a hub that is made up: what is wrong with one is said before its weights are fetched."""

import json
import shutil
from fnmatch import fnmatch

import huggingface_hub
import pytest
from steady import cli, refused

from prune2deploy.models.checkpoint import load_dense, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "somebody/topics"
NOWHERE = ("--data", "nowhere")


class Hub:
    """Gives the files of `repository`; `fetched`: the names of those that were asked for, in order."""

    def __init__(self, repository, cache):
        self.repository, self.directory, self.fetched, self.revisions = repository, cache / COMMIT, [], []
        self.lists = True

    def names(self):
        return sorted(path.relative_to(self.repository).as_posix() for path in self.repository.rglob("*") if path.is_file())

    def snapshot_download(self, name, revision=None, allow_patterns=()):
        assert name == NAME
        self.revisions.append(revision)
        for file in self.names():
            target = self.directory / file
            if any(fnmatch(file, pattern) for pattern in allow_patterns) and not target.exists():
                self.fetched.append(file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.repository / file, target)
        self.directory.mkdir(parents=True, exist_ok=True)
        return str(self.directory)

    def list_repo_files(self, name, revision=None):
        assert (name, revision) == (NAME, COMMIT)
        if not self.lists:
            raise OSError("no way to the hub")
        return self.names()


@pytest.fixture
def hub(dense_copy, tmp_path, monkeypatch):
    found = Hub(dense_copy, tmp_path / "cache")
    for name in ("snapshot_download", "list_repo_files"):
        monkeypatch.setattr(huggingface_hub, name, getattr(found, name))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return found


def configured(hub, **changes):
    path = hub.repository / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_model_comes_whole_and_of_one_version(hub, tmp_path):
    directory = resolve_model(NAME, tmp_path)
    assert load_dense(directory).config.model_type == "bert"
    assert hub.fetched[0] == "config.json"
    assert {"model.safetensors", "tokenizer.json"} < set(hub.fetched)
    assert hub.revisions == [None, COMMIT]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "gpt_neox"}, "models of type 'gpt_neox' are not supported"),
        ({"problem_type": "regression"}, "only one works yet"),
        ({"architectures": ["BertLMHeadModel"]}, "the model is a BertLMHeadModel"),
    ],
)
def test_configuration_is_judged_before_the_weights_are_fetched(changes, says, hub):
    configured(hub, **changes)
    refused(cli("init", NAME, *NOWHERE), says)
    assert hub.fetched == ["config.json"]


def test_model_without_a_configuration(hub):
    (hub.repository / "config.json").unlink()
    (hub.repository / "adapter_config.json").write_text("{}", encoding="utf-8")
    refused(cli("init", NAME, *NOWHERE), "no config.json here", "this is an adapter")
    assert hub.fetched == ["adapter_config.json"]


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_model_that_is_a_pickle(pickle, hub):
    (hub.repository / "model.safetensors").rename(hub.repository / pickle)
    (hub.repository / "optimizer.pt").touch()
    reason = f"({pickle} is a pickle, which is never loaded: convert it to safetensors)"
    refused(cli("init", NAME, *NOWHERE), f"model '{NAME}': the hub has no safetensors weights of it {reason}")
    assert hub.fetched == ["config.json"]


def test_weights_in_a_folder_of_their_own_are_not_the_models(hub):
    (hub.repository / "onnx").mkdir()
    (hub.repository / "model.safetensors").rename(hub.repository / "onnx" / "model.safetensors")
    refused(cli("init", NAME, *NOWHERE), "the hub has no safetensors weights of it")
    assert hub.fetched == ["config.json"]


def test_what_is_in_the_cache_does_without_the_hub(hub, tmp_path):
    resolve_model(NAME, tmp_path)
    hub.lists = False
    assert load_dense(resolve_model(NAME, tmp_path))


def test_hub_that_lists_nothing_is_asked_all_the_same(hub, tmp_path):
    hub.lists = False
    assert load_dense(resolve_model(NAME, tmp_path))
