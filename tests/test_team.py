"""Calibration shared among processes, as torchrun starts them."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from steady import answer, cli, refused

from prune2deploy.pruning.statistics import calibrate

pytest_plugins = ("made",)

PROGRAM = """
from prune2deploy.pruning.statistics import calibrate
calibrate.BATCH = {batch}
from prune2deploy.cli import main
main()
"""


def together(count, batch, *command):
    """What `count` processes that calibrate together leave: (exit code, stdout, stderr) of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(batch=batch), *command], env={**os.environ, **meeting, "RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def statistics(work):
    """Every array in the caches of statistics."""
    files = (work / ".prune2deploy" / "prune").rglob("*.safetensors")
    return {f"{path.name}:{name}": array for path in files for name, array in load_file(path).items()}


@pytest.mark.parametrize(("batch", "method"), [(3, "ours"), (32, "fisher")])  # several batches, or one
def test_two_processes_give_the_plan_of_one(batch, method, work, monkeypatch):
    shutil.rmtree(work / ".prune2deploy" / "prune")
    monkeypatch.setattr(calibrate, "BATCH", batch)
    command = ("prune", "--flops", "0.5", "--method", method, "--json")
    alone = answer(cli(*command, "--out", "alone"))
    expected = statistics(work)
    shutil.rmtree(work / ".prune2deploy" / "prune")
    (code, said, stderr), follower = together(2, batch, *command, "--out", "both")
    assert code == 0, stderr
    assert follower[:2] == (0, ""), follower[2]
    assert json.loads(said)["plan"] == alone["plan"]
    found = statistics(work)
    assert set(found) == set(expected) != set()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5 * np.abs(array).max(), err_msg=name)


@pytest.mark.parametrize("command", [("profile",), ("run", "--speedup", 2), ("export",), ("validate", "package")])
def test_what_measures_is_not_shared(command, work, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(cli(*command), f"{command[0]} measures latency", "one process")
