"""A Triton model repository: entries with numbered versions, which a polling server sees whole or not at all.

Everything is made in a directory beside the repository, on the same file system, and moved in by one rename. It cannot be
made inside: a server takes any directory there for a model, hidden ones too (seen on server 2.51).
"""

import fcntl
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from prune2deploy.errors import InputError
from prune2deploy.files import made_directory, refuse_blocked, scratch
from prune2deploy.repository.manifest import ENTRY_NAME, Manifest, read_manifest, read_sealed, seal_problems, write_sealed
from prune2deploy.repository.triton import CONFIG_FILE, WARMUP_DIRECTORY
from prune2deploy.tasks.base import LABELS_FILE

# A server may still be loading a version that was superseded a moment ago; when that is taken away, the python backend of
# server 2.51 hangs, and the server with it.
GRACE = 60.0


def versions_of(entry: Path) -> list[int]:
    """The versions in `entry`, the oldest first."""
    if not entry.is_dir():
        return []
    # a server ignores numbers that begin with a zero
    return sorted(int(path.name) for path in entry.iterdir() if re.fullmatch("[1-9][0-9]*", path.name))


def located(package: Path) -> tuple[Path, str]:
    """The entry and the version that `package` names: a version directory, or an entry, whose newest version it means.

    Raises InputError where there is none.
    """
    if not package.is_dir():
        raise InputError(f"{package}: no such package; make one with `prune2deploy export`")
    if package.name.isdecimal() and not versions_of(package):
        return package.parent.resolve(), package.name
    versions = versions_of(package)
    if not versions:
        raise InputError(f"{package}: no version directory here, so this is not a package of prune2deploy")
    return package.resolve(), str(versions[-1])


def newest_manifest(repository: Path, name: str) -> Manifest | None:
    """The manifest of the newest version of `name`; None where there is no such entry yet.

    Raises InputError where `name` can be no entry of `repository`, or is one that we did not write.
    """
    refuse_blocked(repository)
    entry = repository / name
    if not (entry.exists() or entry.is_symlink()):
        return None
    try:
        return read_manifest(entry / located(entry)[1])
    except InputError as error:
        raise InputError(f"{entry} is there and not to be added to ({error}); export under another --name") from None


@contextmanager
def staging(repository: Path, name: str) -> Iterator[Path]:
    """A directory to make entries in that become part of `repository`; it vanishes, whatever becomes of them.

    What a killed process left in it is removed by the next one that makes `name`. Raises InputError where another process
    is making `name`, or where nothing can be moved in by a rename.
    """
    if not ENTRY_NAME.fullmatch(name):
        raise InputError(f"{name!r} can be no entry of a repository")
    target = repository.resolve()
    root = target.parent / f".{target.name}.staging"
    with made_directory(target):
        try:
            with _locked(root / f".{name}.lock", f"another process is exporting {name!r} into {repository}; let it end"):
                if root.stat().st_dev != target.stat().st_dev:
                    raise InputError(
                        f"{repository} is the root of a file system, so nothing can appear in it in one step: "
                        "export into a directory inside it"
                    )
                with scratch(root / name):
                    yield root / name
        finally:
            with suppress(OSError):  # another export is in it, or has taken it away
                root.rmdir()


@contextmanager
def _locked(path: Path, message: str) -> Iterator[None]:
    """Hold the lock `path`, which a killed process does not keep; raises InputError with `message` where it is held."""
    with _opened(path) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.stat().st_ino == os.fstat(stream.fileno()).st_ino  # or its holder has just removed it
        except OSError:
            held = False
        if not held:
            raise InputError(message)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _opened(path: Path) -> TextIO:
    """The file `path`, open, in a directory that others make and take away as they come and go."""
    while True:
        try:
            path.parent.mkdir(exist_ok=True)
        except FileExistsError:
            raise InputError(f"{path.parent}: a file where exports are to be made; remove it") from None
        with suppress(FileNotFoundError):
            return path.open("w")


def adopt(entry: Path, staged: Path) -> None:
    """Give `staged` the files that the versions of `entry` share, which a server has read already.

    Raises InputError where `staged` would be served differently: then it is another model.
    """
    for name in (CONFIG_FILE, LABELS_FILE):
        there, here = ((folder / name).read_text("utf-8") if (folder / name).is_file() else "" for folder in (entry, staged))
        if there != here:
            lines = [set(text.splitlines()) for text in (there, here)]
            differ = next((line.strip() for line in here.splitlines() if line not in lines[0]), "fewer lines")
            raise InputError(
                f"{entry} is served with another {name} (here: {differ}), and its versions share it: "
                "export under another --name"
            )
    shutil.rmtree(staged / WARMUP_DIRECTORY, ignore_errors=True)
    if (entry / WARMUP_DIRECTORY).is_dir():
        shutil.copytree(entry / WARMUP_DIRECTORY, staged / WARMUP_DIRECTORY)


def publish(staged: Path, entry: Path, keep: int, grace: float = GRACE) -> None:
    """Move `staged`, which holds one version, into its repository: as `entry`, or as the next version of it.

    All but the newest version and `keep` before it are then taken away, where they were superseded `grace` seconds ago.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)  # another export that failed may have taken it away
    if not entry.exists():
        staged.rename(entry)
        return
    version = str(versions_of(staged)[0])
    (staged / version).rename(entry / version)
    versions = versions_of(entry)
    for old, following in list(itertools.pairwise(versions))[: max(0, len(versions) - 1 - keep)]:
        if time.time() - (entry / str(following)).stat().st_ctime < grace:  # when it was renamed into its place
            break
        away = staged.parent / f"{entry.name}-{old}"
        (entry / str(old)).rename(away)
        shutil.rmtree(away)


def rollback(entry: Path) -> tuple[int, int]:
    """Serve again what was served before: the version before the newest becomes the newest, under a number of its own.

    A second rollback goes one version further back. Returns the version that was taken and its new number; raises
    InputError where there is none to go back to, or where it is damaged.
    """
    if entry.name.isdecimal() and not versions_of(entry):
        raise InputError(f"{entry} is a version; name the entry, {entry.parent}")
    entry, newest = located(entry)
    try:
        came_from = read_sealed(entry / newest).restored_from or int(newest)
    except InputError:  # a reason more to go back
        came_from = int(newest)
    older = [version for version in versions_of(entry) if version < came_from]
    if not older:
        raise InputError(f"{entry}: no version before {came_from} is kept (serving.keep says how many are)")
    source, number = str(older[-1]), int(newest) + 1
    if problems := seal_problems(entry, source):
        raise InputError(f"{entry}: version {source} cannot be served again: {problems[0]}")
    with staging(entry.parent, entry.name) as folder:
        staged = folder / str(number)
        shutil.copytree(entry / source, staged, ignore=shutil.ignore_patterns("__pycache__"))
        restored = read_sealed(staged)
        origin = restored.restored_from or int(source)
        write_sealed(restored.model_copy(update={"restored_from": origin, "version": number}), staged)
        staged.rename(entry / str(number))
    return int(source), number
