"""Projects that were taken from `init` to a package, under the clock of `steady`; once a session.

A test module that says `pytest_plugins = ("made",)` gets these fixtures.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from steady import answer, cli, install

from prune2deploy import closed_loop
from prune2deploy.config import Project, load_project


@dataclass(frozen=True)
class Made:
    """A project that was taken from `init` to a package. `said`: the --json answers; `pruned`: a copy from before."""

    family: str
    root: Path
    project: Project
    package: Path
    pruned: Path
    said: dict[str, dict]
    asked: list[str]

    @property
    def version(self):
        return self.package / "1"


def make(family, model, data, root, commands, profiles=None):
    with pytest.MonkeyPatch.context() as patch:
        clock = install(patch)
        patch.chdir(root)
        real, pruned = closed_loop.export, root / "kept"

        def keeping(project, directory, *args, **kwargs):
            shutil.copytree(directory, pruned)
            return real(project, directory, *args, **kwargs)

        patch.setattr(closed_loop, "export", keeping)
        points = ["--batch", 2, *([] if family == "vit" else ["--seq-len", 8])]
        said = {"init": answer(cli(
            "init", model, "--data", data, *points, "--threads", 1, "--samples", 16, "--json"
        ))}  # fmt: skip
        if profiles:
            shutil.copytree(profiles, root / "profiles")
        for name, arguments in commands.items():
            said[name] = answer(cli(name, *arguments, "--json"))
    project = load_project(root / "prune2deploy.toml")
    return Made(family, root, project, root / "model_repository" / model.name, pruned, said, clock.asked)


@pytest.fixture(scope="session")
def bert_made(bert_dir, text_data, tmp_path_factory):
    """Profiled and then run."""
    commands = {"profile": [], "run": ["--speedup", 1.5]}
    return make("bert", bert_dir, text_data, tmp_path_factory.mktemp("bert-made"), commands)


@pytest.fixture(scope="session")
def pairs_made(bert_dir, pair_data, bert_made, tmp_path_factory):
    """Run with the table that lies there already."""
    root = tmp_path_factory.mktemp("pairs-made")
    return make("pairs", bert_dir, pair_data, root, {"run": ["--speedup", 1.5]}, bert_made.project.profiles)


@pytest.fixture(scope="session")
def vit_made(vit_dir, image_data, tmp_path_factory):
    """Run without a table."""
    return make("vit", vit_dir, image_data, tmp_path_factory.mktemp("vit-made"), {"run": ["--speedup", 1.5]})


@pytest.fixture(params=["bert", "pairs", "vit"])
def made(request):
    return request.getfixturevalue(f"{request.param}_made")


@pytest.fixture
def clock(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def work(bert_made, tmp_path, monkeypatch):
    """A copy of the single-text project before its run, and the current directory: profiled, dense model exported."""
    root = shutil.copytree(bert_made.root, tmp_path / "work", ignore=shutil.ignore_patterns("model_repository", "kept"))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def work_pruned(work, bert_made):
    """The same with a pruned model in `pruned`."""
    shutil.copytree(bert_made.pruned, work / "pruned")
    return work
