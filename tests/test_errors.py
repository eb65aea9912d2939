import os
import signal
import weakref

import pytest
import typer

from prune2deploy.console import RichProgress, guarded
from prune2deploy.errors import InputError, reason_of


def test_message_is_one_line_whatever_a_file_is_called():
    assert str(InputError("a\nb.jsonl: the file is empty")) == "a b.jsonl: the file is empty"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("too bad"), "too bad"), (ValueError("\n\n  too bad\nand more"), "too bad"), (ValueError(), "ValueError"),
        (KeyError("selu"), "nothing is called 'selu'"), (ValueError("x" * 500), "x" * 200),
    ],
)  # fmt: skip
def test_reason_is_the_first_line_that_says_anything(error, reason):
    assert reason_of(error) == reason


@pytest.fixture
def in_the_foreground():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_foreground")
def test_a_ctrl_c_that_python_loses_stops_where_progress_next_advances(capsys):
    done = []

    class Thing:
        pass

    @guarded
    def command():
        thing = Thing()
        lost = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))  # what is raised in here, Python ignores
        with RichProgress().track("working", 2) as advance:
            del thing
            done.append(lost)
            advance()
            done.append("more")

    with pytest.raises(typer.Exit) as stopped:
        command()
    assert stopped.value.exit_code == 130
    assert len(done) == 1
    said = capsys.readouterr().err
    assert "error: stopped; the same command goes on" in said
    assert "Traceback" not in said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_that_is_ignored_in_the_background_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        guarded(lambda: os.kill(os.getpid(), signal.SIGINT))()
    finally:
        signal.signal(signal.SIGINT, before)
