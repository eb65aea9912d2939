"""What README and docs tell people to type is what the command line takes."""

import functools
import re
import shlex
from pathlib import Path

import pytest
import typer
from steady import cli

from prune2deploy.cli import app
from prune2deploy.console import UsageError

pytest_plugins = ("made",)

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OF_OTHERS = {"--disable-auto-complete-config", "--cache-config"}  # tritonserver's, named alone
OTHER_PROGRAMS = ("pip", "torchrun", "tritonserver")


def fenced_commands(text):
    """Every line of a block that begins with `prune2deploy`, without it and without its comment."""
    lines = [line for block in FENCED.findall(text) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("prune2deploy ")]


def spans(text):
    """What stands in backquotes in running text, each on one line."""
    return [" ".join(span.split()) for span in SPAN.findall(FENCED.sub("", text))]


def span_commands(text):
    """The command lines in running text: `prune2deploy …`, also behind a launcher."""
    return [shlex.split(span.split("prune2deploy ", 1)[1]) for span in spans(text) if "prune2deploy " in span]


@functools.cache
def whole():
    """The command line, all of it."""
    return typer.main.get_command(app)


def command_of(arguments):
    """The command that `arguments` name, and what is left for it; None where they name none."""
    command, rest = whole(), list(arguments)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return None, rest
        command = command.commands[rest.pop(0)]
    return command, rest


def options_of(command):
    """All that `command`, or one below it, takes."""
    below = [name for each in getattr(command, "commands", {}).values() for name in options_of(each)]
    return {"--help", *below, *(name for each in command.params for name in (*each.opts, *each.secondary_opts))}


def parse(arguments):
    """As the command line does, up to where the work would begin; raises UsageError."""
    command, rest = command_of(arguments)
    assert command is not None, f"no command: {' '.join(arguments)}"
    command.make_context(command.name, rest)


COMMAND_LINES = [
    pytest.param(arguments, id=f"{document.name}: {' '.join(arguments)}")
    for document in DOCUMENTS
    for find in (fenced_commands, span_commands)
    for arguments in find(document.read_text(encoding="utf-8"))
]


def test_there_are_commands_to_try():
    named = {line.values[0][0] for line in COMMAND_LINES}
    assert named >= {"init", "profile", "prune", "frontier", "export", "run", "validate", "repository", "client", "bench"}


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_every_command_line_is_one_that_we_take(arguments):
    parse(arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_that_is_named_is_there(document):
    text = document.read_text(encoding="utf-8")
    lines = [line.removeprefix("prune2deploy ") for block in FENCED.findall(text) for line in block.splitlines()]
    every = options_of(whole())
    for said in [*lines, *spans(text)]:
        words = said.split()
        if not words or words[0] in OTHER_PROGRAMS:
            continue
        code = said.partition("#")[0]
        command, _ = command_of(code.split())
        taken = options_of(command or whole())
        assert set(OPTION.findall(code)) - OF_OTHERS <= taken, said
        assert set(OPTION.findall(said)) - OF_OTHERS <= every, said


@pytest.mark.parametrize("wrong", [["prune", "--latency", "5"], ["export", "--pick"], ["client", "localhost:8000"]])
def test_a_command_line_that_we_do_not_take_would_be_noticed(wrong):
    with pytest.raises(UsageError):
        parse(wrong)


@pytest.mark.slow
def test_the_three_steps_of_the_readme_do_what_it_says(work, clock):
    """Those that need no hub, server or GPU, in their order; the clock makes 5 ms a budget that asks for something."""
    clock.factor = lambda description, name: 8 / 3
    steps = [
        arguments
        for arguments in fenced_commands((ROOT / "README.md").read_text(encoding="utf-8"))
        if arguments[0] in ("profile", "prune", "export") and not {"--pick", "--layout"} & set(arguments)
    ]
    assert [step[0] for step in steps] == ["profile", "prune", "export", "export"]
    for step in steps:
        result = cli(*step)
        assert result.exit_code == 0, (step, result.stderr)
    assert len(list((work / "profiles").rglob("*.json"))) == 1
    assert (work / "pruned").is_dir()
    entries = {path.name for path in (work / "model_repository").iterdir()}
    [name] = [entry for entry in entries if f"{entry}_text" in entries]
    assert {version.name for version in (work / "model_repository" / name).glob("[0-9]*")} == {"1", "2"}
