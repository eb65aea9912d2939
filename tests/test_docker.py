"""No Docker here: the files are held against what a linter of Dockerfiles asks for, and against the repository."""

import json
import re
from pathlib import Path

import pytest
import typer
import yaml

from prune2deploy.cli import app
from prune2deploy.config import tomllib
from prune2deploy.exporting.releases import RELEASES

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
COMMANDS = typer.main.get_command(app).commands


def instructions(path):
    """(instruction, arguments) of every line, continued ones joined."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def given(path, name):
    return [arguments for instruction, arguments in instructions(path) if instruction == name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_dockerfile_keeps_the_rules(path):
    (base,) = given(path, "FROM")
    assert re.fullmatch(r"nvcr\.io/nvidia/\w+:\d\d\.\d\d-py3", base)
    assert given(path, "USER")[-1] not in ("root", "0")
    assert len(given(path, "HEALTHCHECK")) == 1
    assert not given(path, "ADD")
    for name in ("CMD", "ENTRYPOINT"):
        for arguments in given(path, name):
            assert isinstance(json.loads(arguments), list)
    for command in given(path, "RUN"):
        assert "sudo" not in command
        assert "pip install" not in command or "--no-cache-dir" in command
        assert "apt-get" not in command
    assert all(arguments.startswith("/") for arguments in given(path, "WORKDIR"))


def test_both_images_are_of_one_release_that_we_know():
    tags = {re.search(r":(\d\d\.\d\d)-py3", given(path, "FROM")[0])[1] for path in FILES}
    assert len(tags) == 1
    assert tags <= set(RELEASES)


def test_what_is_copied_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for path in FILES:
        for arguments in given(path, "COPY"):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored


def test_extras_that_are_installed_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [name for path in [*FILES, DOCKER / "README.md"]
             for group in re.findall(r"(?:\.|prune2deploy)\[([\w,]+)\]", path.read_text()) for name in group.split(",")]
    assert named
    assert set(named) <= set(extras)


def test_commands_and_options_that_are_named_exist():
    text = (DOCKER / "README.md").read_text() + (DOCKER / "compose.yaml").read_text()
    calls = re.findall(r"(?:p2d|rm toolchain) (\w+)((?: --?[\w-]+(?: [\w.]+)?)*)", text)
    assert {name for name, _ in calls} == {"profile", "prune", "export"}
    for name, options in calls:
        known = COMMANDS[name].callback.__wrapped__.__annotations__
        flags = {flag for hint in known.values() for each in getattr(hint, "__metadata__", ())
                 for flag in (each.default, *each.param_decls) if isinstance(flag, str)}
        for option in re.findall(r"--[\w-]+", options):
            assert option in flags
    for path in FILES:
        for arguments in given(path, "HEALTHCHECK") + given(path, "ENTRYPOINT"):
            words = json.loads(arguments[arguments.index("[") :])
            if words[0] == "prune2deploy" and len(words) > 1:
                assert words[1] in COMMANDS


def test_compose_builds_files_that_exist():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert set(services) == {"toolchain", "server"}
    for service in services.values():
        context = (DOCKER / service["build"]["context"]).resolve()
        assert (context / service["build"]["dockerfile"]).is_file()
    assert services["server"]["volumes"][0].endswith(":/models:ro")
    assert "--model-repository=/models" in given(DOCKER / "server.Dockerfile", "CMD")[0]


def test_python_of_the_server_is_what_we_test_with():
    pinned = {line.split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    [command] = [each for each in given(DOCKER / "server.Dockerfile", "RUN") if each.startswith("pip install")]
    packages = [word for word in command.split()[2:] if not word.startswith("-")]
    assert len(packages) == 4
    assert set(packages) <= pinned
