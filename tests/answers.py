"""A repository with a model of every head and what answers raw samples around it, made by the command line, once a run.

For `pytest_plugins = ("answers",)`.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import exports
import heads
import pytest
import tritonserver
from filelock import FileLock, Timeout
from steady import answer, cli, install

from prune2deploy.config import load_project
from prune2deploy.models.checkpoint import load

FORCED = ("masked-lm", "question-answering")  # of a random model, answers are no better than one for everything


@pytest.fixture(scope="session")
def answering(tmp_path_factory):
    """By the name of the head: its project, its pruned model, and what the commands said; and the repository of them all."""
    origin = Path(os.environ[exports.FOLDER]) / "answers"
    origin.mkdir(exist_ok=True)
    for wait in (0, -1):  # first what no other process is at, then whatever it was at
        for task in heads.HEADS:
            with suppress(Timeout), FileLock(origin / f"{task}.lock", timeout=wait):
                if not (origin / f"{task}.json").exists():
                    shutil.rmtree(origin / task, ignore_errors=True)
                    said = made(task, origin / task, origin / "models")
                    (origin / f"{task}.json").write_text(json.dumps(said), encoding="utf-8")
    root = shutil.copytree(origin, tmp_path_factory.mktemp("answering") / "all")
    said = {task: json.loads((root / f"{task}.json").read_text(encoding="utf-8")) for task in heads.HEADS}
    of = {
        task: SimpleNamespace(
            project=load_project(root / task / "prune2deploy.toml"), pruned=load(root / task / "pruned"), said=said[task]
        )
        for task in heads.HEADS
    }
    return SimpleNamespace(of=of, repository=root / "models")


def made(task, root, repository):
    """What `init` and `export` said."""
    root.mkdir(parents=True)
    heads.save(task, root)
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.chdir(root)
        start = ["--batch", 2, "--seq-len", 8, "--threads", 1, "--samples", 16]
        begun = answer(cli("init", "model", "--data", "data", *start, *(["--force"] if task in FORCED else []), "--json"))
        answer(cli("prune", "--flops", 0.6, "--json"))
        options = ["--serve", "python", *(["--with-tokenizer"] if task != "masked-lm" else [])]
        exported = answer(cli("export", *options, "--name", name(task), "--out", repository, "--json"))
        return {"init": begun, "export": exported, "validate": answer(cli("validate", repository / name(task), "--json"))}


def name(task):
    return task.replace("-", "_")


@pytest.fixture(scope="session")
def server(answering):
    if reason := tritonserver.why_not():
        pytest.skip(reason)
    with tritonserver.Server(answering.repository, "--disable-auto-complete-config") as running:
        yield running
