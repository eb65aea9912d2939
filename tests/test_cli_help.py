import inspect
import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import prune2deploy
from prune2deploy.cli import app

COMMANDS = {
    "init": ["--data", "--task", "--text-pair", "--label", "--unlabelled", "--calibration", "--samples", "--max-length"],
    "profile": ["--project", "--cpu", "--gpu", "--batch", "--seq-len", "--threads", "--runtime", "--precision", "--wait",
                "--json"],
    "prune": ["--latency-ms", "--speedup", "--flops", "--max-loss", "--out", "--method", "--table", "--wait"],
    "frontier": ["--latency-ms", "--speedup", "--out", "--method", "--wait"],
    "export": ["--pruned", "--pick", "--dense", "--frontier", "--out", "--name", "--max-loss", "--force", "--triton",
               "--serve", "--with-tokenizer", "--response-cache", "--keep", "--wait"],
    "run": ["--latency-ms", "--speedup", "--out", "--name", "--method", "--max-loss", "--force", "--wait"],
    "validate": ["PACKAGE", "--project", "--wait", "--json"],
    "compare": ["--pruned", "--out", "--wait", "--json"],
    "inspect": ["WHAT", "--json"],
    "doctor": ["--json"],
    "client": ["URL", "MODEL", "--pair", "--image", "--json"],
    "bench": ["URL", "MODEL", "--repository", "--concurrency", "--rate", "--seconds", "--out", "--json"],
    "repository": ["check", "rollback"],
}
HEAVY = {"torch", "transformers", "onnxruntime", "datasets", "matplotlib", "onnx", "sklearn", "scipy", "tritonclient"}
ASK_FOR_HELP = f"""
import json, sys
from typer.testing import CliRunner
from prune2deploy.cli import app
said = {{}}
for arguments in {[[], *([name] for name in COMMANDS)]}:
    result = CliRunner().invoke(app, [*arguments, "--help"])
    said[" ".join(arguments)] = [result.exit_code, result.stdout]
print(json.dumps({{"said": said, "imported": sorted({{name.partition(".")[0] for name in sys.modules}})}}))
"""


def python(code):
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def helped():
    return python(ASK_FOR_HELP)


def test_help_of_the_whole_names_every_command(helped):
    code, text = helped["said"][""]
    assert code == 0
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)
    for name in COMMANDS:
        assert f" {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_names_its_options(name, helped):
    code, text = helped["said"][name]
    assert code == 0
    for option in COMMANDS[name]:
        assert option.lower() in text.lower()


def test_help_imports_nothing_heavy(helped):
    assert HEAVY & set(helped["imported"]) == set()


def test_entry_point_answers():
    done = subprocess.run(
        [sys.executable, "-c", "from prune2deploy.cli import main; main()", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_importing_the_package_costs_nothing():
    imported = set(python("import json, sys, prune2deploy; print(json.dumps(sorted(sys.modules)))"))
    assert (HEAVY | {"numpy", "typer", "pydantic", "rich"}) & imported == set()
    assert {name for name in imported if name.startswith("prune2deploy.")} == set()


@pytest.mark.parametrize("name", ["init", "profile", "prune", "frontier", "export", "validate", "run", "load",
                                  "check_repository", "rollback", "bench"])  # fmt: skip
def test_every_verb_is_a_function(name):
    function = getattr(prune2deploy, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    assert function.__doc__
    assert name in prune2deploy.__all__


def test_everything_announced_is_there():
    assert [name for name in prune2deploy.__all__ if not callable(getattr(prune2deploy, name))] == []
    with pytest.raises(AttributeError, match="no attribute 'prone'"):
        _ = prune2deploy.prone


@pytest.mark.parametrize(
    "arguments", [["prone"], ["prune", "--speedup", "fast"], ["init"], ["validate"], ["run", "--flops", "0.5"]]
)
def test_what_no_command_takes_is_a_usage_error(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Usage: " in line
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []

    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(result.stdout) == {"error": result.stderr.strip().removeprefix("error: "), "exit_code": 2}


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{prune2deploy.__version__}\n")


def test_nothing_said_shows_the_help():
    result = CliRunner().invoke(app, [])
    assert "Usage" in result.output
    assert "profile" in result.output
