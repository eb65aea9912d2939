"""Folders and what lies below them, hidden files aside, in the order in which people would list it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder` that is not hidden, in the order of their names."""
    for place, files in walk_folders(folder):
        yield from (Path(place, name) for name in files)


def walk_folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """`folder` and every folder below, with its files.

    Links are followed, to the same place as often as they lead there: only one that leads back to a folder around it,
    which would never end and adds nothing, is not.
    """
    yield from _walk(str(folder), frozenset())


def _walk(place: str, around: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    real = os.path.realpath(place)
    if real in around:
        return
    with os.scandir(place) as found:
        entries = [(entry.name, entry.is_dir()) for entry in found if not is_hidden(entry.name)]
    yield place, sorted((name for name, is_folder in entries if not is_folder), key=natural)
    for name, is_folder in sorted(entries):
        if is_folder:
            yield from _walk(f"{place}{os.sep}{name}", around | {real})


def entries_of(folder: Path) -> list[Path]:
    """What lies in `folder` itself and is not hidden."""
    return sorted((path for path in folder.iterdir() if not is_hidden(path.name)), key=lambda path: natural(path.name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is kept from people's eyes."""
    return name.startswith(".") or name == "__MACOSX"


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `part2` before `part10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
