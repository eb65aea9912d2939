"""How the command line talks: progress and notes on stderr, results on stdout, errors on one line."""

import errno
import functools
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from typer.core import TyperGroup

from prune2deploy.errors import Prune2DeployError
from prune2deploy.progress import Advance, Progress
from prune2deploy.team import ShareDone, is_first

P = ParamSpec("P")
R = TypeVar("R")
INTERRUPTED = 130
UsageError: Any = typer.BadParameter.__bases__[0]  # typer carries a click of its own and does not export this one


class RichProgress(Progress):
    """Bars with the time that is left."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, quiet=not is_first())  # one of several processes talks

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Advance]:
        """See Progress."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        # few redraws: they take processor time from what is being measured
        with Bars(*columns, console=self.console, refresh_per_second=1) as bars:
            task = bars.add_task(description, total=total)

            def advance() -> None:
                if _interrupted.is_set():
                    raise KeyboardInterrupt
                bars.advance(task)

            yield advance

    @contextmanager
    def countdown(self, description: str, seconds: float) -> Iterator[Callable[[float], None]]:
        """See Progress."""
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]} left")
        with Bars(*columns, console=self.console, refresh_per_second=1, transient=True) as bars:
            task = bars.add_task(description, total=seconds, left=_clock(seconds))
            yield lambda left: bars.update(task, completed=seconds - left, left=_clock(left))

    def note(self, message: str) -> None:
        """See Progress."""
        self.console.print(message, style="dim", markup=False, highlight=False)


_interrupted = threading.Event()  # by Ctrl-C, in this command


@contextmanager
def interruptible() -> Iterator[None]:
    """While open, a Ctrl-C that Python loses (in a finaliser, say) stops the command where its progress next advances."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored: in the background
        yield
        return

    def remember(*of: object) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    def lost(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)

    before, hook = signal.signal(signal.SIGINT, remember), sys.unraisablehook
    sys.unraisablehook = lost
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook
        _interrupted.clear()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a user can cause into one line on stderr and an exit code; with --json, into an object on stdout too."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with interruptible():
                return command(*args, **kwargs)
        except Prune2DeployError as error:
            message, code = str(error), error.exit_code
        except ShareDone:
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            message, code = "stopped; the same command goes on from the parts that were finished", INTERRUPTED
        except Exception as error:
            problem = _of_the_machine(error)
            if problem is None:
                raise
            message, code = problem, 2
        tell(message, code, bool(kwargs.get("as_json")))
        raise typer.Exit(code)

    return call


def tell(message: str, code: int, as_json: bool) -> None:
    """One line on stderr; with --json, an object on stdout too."""
    message = " ".join(message.split())
    if as_json:
        print(json.dumps({"error": message, "exit_code": code}))
    print(f"error: {message}", file=sys.stderr)


class Commands(TyperGroup):
    """The commands; a wrong option is told of as any other error is."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        """Run the command that `args` name, and exit."""
        given = list(sys.argv[1:] if args is None else args)
        if not given:
            return super().main(given, *others, **options)  # shows the help
        try:
            code = super().main(given, *others, **{**options, "standalone_mode": False})
        except UsageError as error:
            usage = f" ({error.ctx.get_usage()})" if error.ctx else ""
            tell(error.format_message() + usage, error.exit_code, "--json" in given)
            code = error.exit_code
        sys.exit(code if isinstance(code, int) else 0)


def _of_the_machine(error: Exception) -> str | None:
    """What to say where the disk or the memory is at fault; None for anything else, which would be a fault of ours."""
    said = str(error)
    number = getattr(error, "errno", None)
    if number == errno.ENOSPC or "No space left on device" in said or "os error 28" in said:
        return f"the disk is full: {said}; make room and run this again"
    if number == errno.EDQUOT:
        return f"the disk quota is used up: {said}; make room and run this again"
    if isinstance(error, PermissionError) or number == errno.EROFS:
        return f"no permission: {said}"
    if isinstance(error, MemoryError):
        return "out of memory; use fewer calibration samples (calibration.samples) or a machine with more"
    return None


def print_json(value: object) -> None:
    """A result for machines."""
    print(json.dumps(value, ensure_ascii=False))
