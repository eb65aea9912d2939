"""Metadata files of image folders: a row an image, which names its file."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from prune2deploy.data.delimited import line_of_record, read_delimited
from prune2deploy.data.file_kinds import METADATA, reader_of, uncompressed_name
from prune2deploy.data.json_rows import place_of_row, read_json
from prune2deploy.data.parquet import read_parquet
from prune2deploy.errors import InputError

FILE_NAME = "file_name"  # the column that names the image, as seen from the metadata file
READERS = {"json": read_json, "csv": read_delimited, "parquet": read_parquet}


def is_metadata(path: Path) -> bool:
    """Whether a file of this name says what is in images."""
    return reader_of(path) is not None and uncompressed_name(path).stem.lower() == METADATA


def said_in(path: Path) -> Iterator[tuple[Path, dict[str, Any], Callable[[], str]]]:
    """Each image that the metadata file at `path` names, what it says of it, and a function that tells where."""
    rows = (row for table in READERS[str(reader_of(path))](path) for row in table.to_pylist())
    for number, row in enumerate(rows):
        place = partial(_place, path, number)
        name = row.pop(FILE_NAME, None)
        if not isinstance(name, str) or not name:
            raise InputError(f"{place()}: names no image; column {FILE_NAME!r} has to, not {', '.join(row)}")
        # without the detours that a name may take, so that it compares
        image = Path(os.path.normpath(path.parent / name.replace("\\", "/")))
        if not image.is_file():
            raise InputError(f"{place()}: names {name!r}, which is not there; add it, or remove the row")
        yield image, row, place


def _place(path: Path, row: int) -> str:
    reader = reader_of(path)
    if reader == "json":
        return f"{path}, {place_of_row(path, row)}"
    return f"{path}, line {line_of_record(path, row)}" if reader == "csv" else f"{path}, row {row} (counted from 0)"
