"""A repository that the command line made, and a real server on it. For `pytest_plugins = ("made", "served")`."""

import shutil
from types import SimpleNamespace

import onnxruntime
import pytest
import tritonserver
from steady import answer, cli, install


@pytest.fixture(scope="session")
def needs_server():
    if reason := tritonserver.why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def exported(bert_made, pairs_made, vit_made):
    """A repository with every kind of model, as the command line makes it, and its projects."""
    repository = bert_made.root.parent / "served" / "models"
    projects = {}
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        for made, name in ((bert_made, "topics"), (pairs_made, "pairs"), (vit_made, "pictures")):
            patch.chdir(made.root)
            options = ["--pruned", made.pruned, "--out", repository, "--serve", "python", "--with-tokenizer", "--json"]
            answer(cli("export", *options, "--name", name))
            projects[name] = made.project
        patch.chdir(bert_made.root)
        answer(cli("export", "--dense", "--out", repository, "--serve", "python", "--name", "topics_dense", "--json"))
    return SimpleNamespace(repository=repository, projects=projects)


@pytest.fixture(scope="session", params=["auto-complete", "no auto-complete"])
def server(request, needs_server, exported):
    options = ["--disable-auto-complete-config"] if request.param == "no auto-complete" else []
    with tritonserver.Server(exported.repository, "--cache-config=local,size=4194304", *options) as running:
        yield running


@pytest.fixture(scope="session")
def session_of(exported):
    """What the exported ONNX answers, in this process."""

    def run(name, inputs):
        file = exported.repository / name / "1" / "model.onnx"
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return session.run(None, inputs)[0]

    return run


@pytest.fixture
def scratch_copy(exported, tmp_path):
    """A copy of the repository that a test may damage."""
    return shutil.copytree(exported.repository, tmp_path / "models")
