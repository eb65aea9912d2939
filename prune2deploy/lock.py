"""One command at a time in a project: two would overwrite what each of them keeps in `.prune2deploy`."""

import datetime
import functools
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from prune2deploy.config import project_among
from prune2deploy.errors import InputError
from prune2deploy.files import Record, read_record, write_record
from prune2deploy.team import is_first

P = ParamSpec("P")
R = TypeVar("R")
LOCK_FILE, HOLDER_FILE = "lock", "lock.json"


class Holder(Record):
    """The command that works in a project."""

    pid: int
    host: str
    command: str
    since: str

    def __str__(self) -> str:
        where = "" if self.host == platform.node() else f" on {self.host}"
        return f"`{self.command[:80]}` (process {self.pid}{where}, since {self.since[:80]})"


@contextmanager
def alone_in(state: Path, command: str) -> Iterator[None]:
    """Keep other processes out of the project with this `state` while `command` works there.

    What a command calls comes in again, and of several processes that calibrate together the first one stands for all. A
    killed process keeps nobody out. Raises InputError, saying who is there, where somebody is.
    """
    if not is_first():
        yield
        return
    if state.exists() and not state.is_dir():
        raise InputError(f"{state} is a file, where a directory for unfinished work should be; move it away")
    state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.resolve() / LOCK_FILE, timeout=0, is_singleton=True)
    if lock.is_locked:  # by this thread
        yield
        return
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{state.parent}: {_holder(state)} is at work in this project; let it end, or stop it, and run this again"
        ) from None
    holder = state / HOLDER_FILE
    try:
        now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        write_record(holder, Holder(pid=os.getpid(), host=platform.node(), command=command, since=now))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(state: Path) -> str:
    """Who is there; for a moment after it has come in, or on a full disk, nobody knows."""
    try:
        return str(read_record(state / HOLDER_FILE, Holder, "record", "remove it"))
    except InputError:
        return "another process"


def alone(command: Callable[P, R]) -> Callable[P, R]:
    """`command`, which works by itself in the project that it is given; without one it has nobody to keep out.

    Raises InputError where another process is at work there.
    """

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        project = project_among((*args, *kwargs.values()))
        if project is None:
            return command(*args, **kwargs)
        with alone_in(project.state, f"prune2deploy {command.__name__}"):
            return command(*args, **kwargs)

    return call
