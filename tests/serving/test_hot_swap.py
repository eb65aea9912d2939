"""Versions that come and go under load, in a server that polls: not one failed or wrong answer."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import packages
import pytest
import tritonserver
from packages import ragged

from prune2deploy.repository.check import check_repository
from prune2deploy.repository.versions import GRACE, rollback, versions_of
from prune2deploy.serving import Client

pytest_plugins = ("made", "served")

CLIENTS, PAUSE = 8, 0.02  # 400 requests a second, which leave some of the processors to whoever exports


class Load:
    """Clients that ask again and again, and check what they are told."""

    def __init__(self, url, wanted=packages.expected):
        self.url, self.wanted, self.stop = url, wanted, threading.Event()
        self.wrong, self.answered, self.versions = [], 0, set()
        self.threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(CLIENTS)]

    def _ask(self, seed):
        rng = np.random.default_rng(seed)
        with Client(self.url) as client:
            while not self.stop.is_set():
                inputs = ragged(rng, int(rng.integers(1, 4)), int(rng.choice([4, 8])))
                time.sleep(rng.exponential(PAUSE))
                try:
                    answer = client.infer("sums", inputs)
                except Exception as error:
                    self.wrong.append(str(error))
                    continue
                wanted = self.wanted(inputs, int(answer.version))
                if not np.allclose(answer.outputs["logits"], wanted, rtol=1e-4, atol=1e-5):
                    self.wrong.append(f"version {answer.version}")
                self.answered += 1
                self.versions.add(int(answer.version))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Graph:
    """What an exported graph answers, whatever the version: each is of the same model."""

    def __init__(self, file):
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(self, inputs, version):
        return self.session.run(None, inputs)[0]


def until_served(load, version, seconds=30):
    until = time.monotonic() + seconds
    while version not in load.versions and time.monotonic() < until:
        time.sleep(0.05)
    assert version in load.versions, f"version {version} was never served"


@pytest.fixture
def polling(needs_server, tmp_path):
    packages.release(tmp_path / "models", "sums")
    with tritonserver.Server(tmp_path / "models", "--model-control-mode=poll", "--repository-poll-secs=1") as server:
        yield server


@pytest.mark.slow
def test_six_versions_under_load(polling, tmp_path):
    repository = tmp_path / "models"
    with Load(polling.url) as load:
        for _ in range(6):
            until_served(load, packages.release(repository, "sums", keep=1))
    assert load.wrong == []
    assert load.versions == set(range(1, 8))
    assert versions_of(repository / "sums") == [6, 7]


def test_rollback_under_load(polling, tmp_path):
    repository = tmp_path / "models"
    with Load(polling.url) as load:
        until_served(load, packages.release(repository, "sums"))
        source, number = rollback(repository / "sums")
        assert (source, number) == (1, 3)
        until_served(load, number)
    # version 3 is version 1 again: its answers are those of 1, and nothing else is off
    assert set(load.wrong) == {"version 3"}


EXPORT = """
import sys
import pytest
from steady import cli, install
with pytest.MonkeyPatch.context() as patch:
    install(patch)
    patch.chdir(sys.argv[1])
    print("imported", flush=True)
    while True:
        result = cli("export", "--pruned", sys.argv[2], "--serve", "python", "--name", "sums", "--out", sys.argv[3])
        assert result.exit_code == 0, result.stderr
        print("exported", flush=True)
"""


@pytest.mark.slow
def test_export_killed_at_random_moments_under_load(needs_server, bert_made, tmp_path):
    repository, moments = tmp_path / "models", random.Random(1)

    def start():
        arguments = [sys.executable, "-c", EXPORT, bert_made.root, bert_made.pruned, repository]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(packages.__file__).parent)
        assert process.stdout.readline() == b"imported\n"
        return process

    process = start()
    assert process.stdout.readline() == b"exported\n"
    process.kill()
    process.wait()
    graph = Graph(repository / "sums" / "1" / "model.onnx")
    with tritonserver.Server(repository, "--model-control-mode=poll", "--repository-poll-secs=1") as server:
        with Load(server.url, graph.run) as load:
            for _ in range(2):
                process = start()
                time.sleep(moments.uniform(0, 6))
                process.kill()
                process.wait()
                assert [entry.problems for entry in check_repository(repository)] == [[]]
        assert server.alive()
    assert load.wrong == []
    assert load.answered > 100


@pytest.mark.slow
def test_exporters_killed_at_random_moments_under_load(polling, tmp_path):
    repository, moments = tmp_path / "models", random.Random(0)
    with Load(polling.url) as load:
        for _ in range(6):
            with packages.releasing(repository, keep=0, grace=GRACE):
                time.sleep(moments.uniform(0, 0.4))
        until_served(load, packages.release(repository, "sums", keep=1, grace=GRACE))
    assert load.wrong == []
    assert load.answered > 100
    assert polling.alive()
    assert [entry.problems for entry in check_repository(repository)] == [[]]
