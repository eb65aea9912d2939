"""Two commands in one project: the second says who is there, and nothing that the first keeps is touched."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from steady import answer, cli, files_in, refused

from prune2deploy.config import Project
from prune2deploy.errors import InputError
from prune2deploy.lock import alone, alone_in

pytest_plugins = ("made",)

HALF = ("prune", "--flops", 0.5, "--out", "half")
COMMANDS = {
    "profile": [], "prune": ["--flops", 0.5, "--out", "half"], "frontier": ["--speedup", 2], "run": ["--speedup", 2],
    "export": [], "export --dense": [], "validate": ["kept"],
}  # fmt: skip
# a command that has come as far as its model, and stays there until its stdin is closed
HOLDER = """
import sys
from prune2deploy.pruning import workbench

def stays(*args):
    print("there", flush=True)
    sys.stdin.read()
    raise KeyboardInterrupt

workbench.load_dense = stays
from prune2deploy.cli import main
main()
"""


@pytest.fixture
def holder(work):
    """Another process that prunes in the project."""
    command = [sys.executable, "-c", HOLDER, "prune", "--flops", "0.5", "--out", "other"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


@pytest.mark.parametrize("name", COMMANDS)
def test_second_command_says_who_is_there(name, work, holder):
    before = files_in(work)
    said = refused(
        cli(*name.split(), *COMMANDS[name]), work, f"`prune2deploy prune` (process {holder.pid}, since 20",
        "is at work in this project; let it end, or stop it",
    )  # fmt: skip
    assert str(holder.pid) in said
    assert files_in(work) == before


def test_what_only_reads_is_let_in(work, holder):
    assert cli("doctor", "--json").exit_code == 0
    refused(cli("repository", "check"), "model_repository")
    refused(cli("bench", "localhost:1", "topics"), "model_repository")


def test_it_is_let_in_when_the_first_has_ended(work, holder):
    refused(cli(*HALF), "is at work")
    holder.stdin.close()
    assert holder.wait(60) == 130
    answer(cli(*HALF, "--json"))


def test_killed_process_keeps_nobody_out(work, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(60)
    record = json.loads((work / ".prune2deploy" / "lock.json").read_text(encoding="utf-8"))
    assert record["pid"] == holder.pid, "it could not tidy up"
    answer(cli(*HALF, "--json"))


def test_record_that_says_nothing_is_no_fault(work, holder):
    (work / ".prune2deploy" / "lock.json").write_text('{"pid": "x"}', encoding="utf-8")
    refused(cli(*HALF), "another process is at work in this project")


def other_thread(call):
    """What `call` raises in a thread of its own; None where it does not."""
    raised = []

    def run():
        try:
            call()
        except InputError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_command_that_calls_others(tmp_path):
    state = tmp_path / ".prune2deploy"

    def second():
        with alone_in(state, "second"):
            pass

    with alone_in(state, "outer"):
        with alone_in(state, "inner"):
            assert "`outer`" in other_thread(second)
        assert "`outer`" in other_thread(second), "still there when what it called has ended"
        with alone_in(tmp_path / "another" / ".prune2deploy", "inner"):
            pass
    assert other_thread(second) is None


def test_project_is_found_wherever_it_is_given(bert_dir, text_data, make_project, tmp_path):
    project = make_project(bert_dir, text_data, "text-classification", tmp_path)

    @alone
    def command(package: str, project: Project | None = None) -> str:
        """What is said in the project."""
        return str(other_thread(lambda: alone(lambda project: None)(project)) if project else None)

    assert "`prune2deploy command`" in command("package", project)
    assert "`prune2deploy command`" in command("package", project=project)
    assert command("package") == "None"


def test_of_several_processes_the_first_stands_for_all(tmp_path, monkeypatch):
    state = tmp_path / ".prune2deploy"
    with alone_in(state, "first"):

        def follower():
            with alone_in(state, "follower"):
                pass

        assert "`first`" in other_thread(follower)
        monkeypatch.setenv("RANK", "1")
        assert other_thread(follower) is None


def test_file_in_the_place_of_the_state(tmp_path):
    (tmp_path / ".prune2deploy").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is a file, where a directory"), alone_in(tmp_path / ".prune2deploy", "prune"):
        pass
