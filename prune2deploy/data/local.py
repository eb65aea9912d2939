"""Local data sets as datasets' own: read as the files are now, by their literal names, and never from a cache.

What is read lies in an unnamed file that vanishes with the process, not in memory; within a process, a file that has not
changed is read once.
"""

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from prune2deploy.data.card import CARD, SETTINGS
from prune2deploy.data.delimited import line_of_record, read_delimited
from prune2deploy.data.image_folder import image_folder, image_rows
from prune2deploy.data.image_metadata import is_metadata
from prune2deploy.data.joining import wide_enough
from prune2deploy.data.json_rows import place_of_row, read_json, unified
from prune2deploy.data.layout import IMAGES, SAVED, layout_of
from prune2deploy.data.parquet import read_arrow, read_parquet, saved_files, saved_splits
from prune2deploy.data.walking import walk, walk_folders
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

READERS = {"json": read_json, "csv": read_delimited, "parquet": read_parquet, SAVED: read_arrow}


@dataclass(frozen=True)
class Read:
    """The rows of a split, and how many of them each of its files holds, in order."""

    rows: "Dataset"
    counts: list[int]


_FOLDERS: dict[Path, tuple[dict[Path, object], "LocalData"]] = {}  # what image folders were like when they were looked at
_READ: dict[tuple[Path, ...], tuple[object, Read]] = {}  # by files: what they were like when they were read, and the rows


class LocalData(Mapping[str, "Dataset"]):
    """The splits of a file or directory by name, each read when it is asked for. Raises InputError."""

    def __init__(self, local: Path):
        layout = layout_of(local)
        self.folder, self.reader, self.left_out = layout.folder, layout.reader, layout.left_out
        self.files = layout.files
        self._images = image_folder(layout.folder) if layout.reader == IMAGES else None
        if self._images:
            self.left_out = self._images.left_out
            self.files = {name: split.images for name, split in self._images.splits.items()}
        if layout.reader == SAVED:
            self.files = {name: saved_files(folder) for name, folder in saved_splits(local).items()}

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __getitem__(self, name: str) -> "Dataset":
        files = self.files[name]
        return image_rows(self._images, name) if self._images else _read(files, self.reader).rows

    def file_of(self, name: str, row: int) -> tuple[Path, int]:
        """The file that holds `row` of split `name`, and which of its rows it is there."""
        files = self.files[name]
        if self._images:
            return files[row], 0
        for path, count in zip(files, _read(files, self.reader).counts, strict=True):
            if row < count:
                return path, row
            row -= count
        raise IndexError(row)

    def place(self, name: str, row: int) -> str:
        """Where `row` of split `name` is, in words: its file, and its line or row there."""
        path, row = self.file_of(name, row)
        shown = path.relative_to(self.folder)
        if self._images:
            return str(shown)
        if self.reader == "csv":
            return f"{shown}, line {line_of_record(path, row)}"
        return f"{shown}, {place_of_row(path, row) if self.reader == 'json' else f'row {row} (counted from 0)'}"


def local_data(local: Path) -> LocalData:
    """The data at `local`; raises InputError. A large image folder is looked through again only where it has changed."""
    before = _FOLDERS.get(local)
    if before and all(_state(path) == state for path, state in before[0].items()):
        return before[1]
    found = LocalData(local)
    if found.reader == IMAGES:
        watched = {Path(place) for place, _ in walk_folders(local)} | {path for path in walk(local) if is_metadata(path)}
        watched |= {local / CARD, local / SETTINGS}
        _FOLDERS[local] = {path: _state(path) for path in watched}, found
    return found


def _read(files: list[Path], reader: str) -> Read:
    key, state = tuple(files), [_state(path) for path in files]
    if key not in _READ or _READ[key][0] != state:
        _READ[key] = state, _read_anew(files, reader)
    return _READ[key][1]


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes whenever a file is written or replaced, or a folder's entries, whatever times are then set."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read_anew(files: list[Path], reader: str) -> Read:
    import datasets
    import pyarrow as pa

    tables = [_kept(READERS[reader](path)) for path in files]
    counts = [len(table) for table in tables]
    if not tables:  # a split that was saved without a row has no file
        return Read(datasets.Dataset.from_dict({}), counts)
    if reader == "json":
        tables = unified(tables)
    features = [_features(table, path) for table, path in zip(tables, files, strict=True)]
    wanted = wide_enough(features, files)
    tables = [datasets.table.table_cast(table.select(list(wanted)), wanted.arrow_schema) for table in tables]
    return Read(datasets.Dataset(pa.concat_tables(tables), fingerprint=uuid4().hex), counts)


def _kept(chunks: "Iterable[pa.Table]") -> "pa.Table":
    """`chunks` as one table in an unnamed file."""
    import datasets
    import pyarrow as pa

    chunks = iter(chunks)
    first = next(chunks, pa.table({}))
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache) as file:
        with pa.ipc.new_stream(file, first.schema) as writer:
            for chunk in chain([first], chunks):
                writer.write_table(chunk)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()


def _features(table: "pa.Table", path: Path) -> "Features":
    import datasets

    if unspeakable := next((name for name in table.column_names if "\0" in name), None):
        raise InputError(f"{path}: cannot be read: the name of column {unspeakable!r} holds a NUL; rename the column")
    try:
        return datasets.Features.from_arrow_schema(table.schema)
    except Exception as error:  # datasets raises many kinds for a type that it does not know
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0][:200]}") from None

