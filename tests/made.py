"""Projects that were taken from `init` to a package, under the clock of `steady`; once a run.

A test module that says `pytest_plugins = ("made",)` gets these fixtures.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import exports
import pytest
from filelock import FileLock
from steady import answer, cli, install

from prune2deploy import closed_loop
from prune2deploy.config import Project, load_project


@dataclass(frozen=True)
class Made:
    """A project that was taken from `init` to a package.

    `origin`: where that was, for the whole run; `root`: this process's copy, which no other process changes;
    `pruned`: the pruned model, kept; `said`: the --json answers; `asked`, `used`, `padded`: of the clock.
    """

    family: str
    origin: Path
    root: Path
    project: Project
    package: Path
    pruned: Path
    said: dict[str, dict]
    asked: list[str]
    used: list[str]
    padded: list[str]

    @property
    def version(self):
        return self.package / "1"


def make(family, model, data, root, commands, profiles):
    """What the commands said, and what was measured."""
    with pytest.MonkeyPatch.context() as patch:
        clock = install(patch)
        patch.chdir(root)
        real, pruned = closed_loop.export, root / "kept"

        def keeping(project, directory, *args, **kwargs):
            shutil.copytree(directory, pruned)
            return real(project, directory, *args, **kwargs)

        patch.setattr(closed_loop, "export", keeping)
        # the labels of the tiny images say nothing
        points = ["--batch", 2, *(["--force"] if family == "vit" else ["--seq-len", 8])]
        said = {"init": answer(cli(
            "init", model, "--data", data, *points, "--threads", 1, "--samples", 16, "--json"
        ))}  # fmt: skip
        if profiles:
            shutil.copytree(profiles, root / "profiles")
        for name, arguments in commands.items():
            said[name] = answer(cli(name, *arguments, "--json"))
    return {"said": said, "asked": clock.asked, "used": clock.used, "padded": clock.padded}


def made_once(family, model, data, commands, tmp_path_factory, profiles=None):
    """Made by the first process of a run that asks for it, and copied by each."""
    origin = Path(os.environ[exports.FOLDER]) / f"made-{family}"
    record = origin.with_suffix(".json")
    with FileLock(origin.with_suffix(".lock")):
        if not record.exists():
            shutil.rmtree(origin, ignore_errors=True)
            origin.mkdir()
            record.write_text(json.dumps(make(family, model, data, origin, commands, profiles)), encoding="utf-8")
    root = shutil.copytree(origin, tmp_path_factory.mktemp(f"{family}-made") / "project")
    found = json.loads(record.read_text(encoding="utf-8"))
    project, package = load_project(root / "prune2deploy.toml"), root / found["said"]["run"]["path"]
    return Made(family, origin, root, project, package, root / "kept", **found)


@pytest.fixture(scope="session")
def bert_made(bert_dir, text_data, tmp_path_factory):
    """Profiled and then run."""
    return made_once("bert", bert_dir, text_data, {"profile": [], "run": ["--speedup", 1.5]}, tmp_path_factory)


@pytest.fixture(scope="session")
def pairs_made(bert_dir, pair_data, bert_made, tmp_path_factory):
    """Run with the table that lies there already."""
    commands = {"run": ["--speedup", 1.5]}
    return made_once("pairs", bert_dir, pair_data, commands, tmp_path_factory, bert_made.project.profiles)


@pytest.fixture(scope="session")
def vit_made(vit_dir, image_data, tmp_path_factory):
    """Run without a table."""
    return made_once("vit", vit_dir, image_data, {"run": ["--speedup", 1.5]}, tmp_path_factory)


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
