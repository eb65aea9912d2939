"""Data sets, their splits and columns: of the hub, or local files and image folders."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.config import DataSettings
from prune2deploy.data.file_kinds import reader_of
from prune2deploy.data.hub import hub_data
from prune2deploy.data.joining import joined
from prune2deploy.data.layout import IMAGES
from prune2deploy.data.local import LocalData, local_data
from prune2deploy.data.split_names import guess_splits, selected, share_rows, unused_splits
from prune2deploy.errors import InputError
from prune2deploy.files import seen_from

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Places", "column", "columns_of", "guess_splits", "left_out", "open_data", "place_of", "read_split", "row_number",
    "share_rows", "split_name", "unused_splits",
]  # fmt: skip

ROW = "__row__"  # the column that says which row of the split, in the order of its files, a row is


def open_data(path: str, root: Path) -> "Mapping[str, Dataset]":
    """Every split of the data at `path`: a local file or directory, or a hub data set `name[:config]`.

    Local splits are read when they are asked for. Raises InputError where there is nothing, or it cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    if not path.strip():
        raise InputError(f"data {path!r}: names nothing; name a file, a directory (such as .) or a data set of the hub")
    local = seen_from(root, path)
    if _is_there(local):
        return local_data(local)
    name, _, config = path.partition(":")
    if config and seen_from(root, name).is_dir():
        raise InputError(
            f"data {path!r}: {name} is a local folder, and those have no configurations; name it alone, or the folder of "
            f"one in it, {Path(name, config)}/"
        )
    if path.startswith((".", "/", "~")) or reader_of(local) or path.count("/") > 1:
        raise InputError(f"{str(local)[:300]}: no such data file or directory")
    if Path(name).exists():
        raise InputError(f"data {path!r}: there is no {name} in {root}, but one in {Path.cwd()}; write its whole path")
    return hub_data(path)


def _is_there(local: Path) -> bool:
    """Whether something lies at `local`, which may be too long for a path; raises InputError for a link to nothing."""
    try:
        if local.is_symlink() and not local.exists():
            raise InputError(f"{local}: links to {local.readlink()}, which is not there; name the data itself")
        return local.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"data '{str(local.name)[:80]}…': is too long for a name; name a file or a directory") from None
        raise


def left_out(path: str, root: Path) -> list[str]:
    """What lies beside the data at `path` and is not read; documentation is not worth naming."""
    local = seen_from(root, path)
    return local_data(local).left_out if _is_there(local) else []


def split_name(split: str, splits: Mapping[str, object], where: str) -> str:
    """The split that `split` is, is a share of, or begins with; raises InputError where the data has no such split."""
    return selected(split, splits, where).names[0]


def read_split(data: DataSettings, split: str, root: Path, seed: int = 0) -> "Dataset":
    """The rows of `split`, and in `ROW` which ones they are.

    `train_a+train_b` is one after the other; `train[:50%]` is a share, of all that is named, taken after shuffling with
    `seed` so that sorted data does no harm.
    """
    splits = open_data(data.path, root)
    chosen = selected(split, splits, data.path)
    rows = joined([splits[name] for name in chosen.names], chosen.names, data.path)
    if ROW in rows.column_names:
        raise InputError(f"data {data.path!r}: has a column {ROW!r}, a name that is ours; rename it")
    rows = rows.add_column(ROW, np.arange(len(rows)))
    if chosen.share:
        start, stop = (len(rows) * share // 100 for share in chosen.share)
        rows = rows.shuffle(seed=seed).select(range(start, stop))
    if len(rows) == 0:
        raise InputError(f"data {data.path!r}, split {split!r}: no rows")
    return rows


def columns_of(rows: "Dataset") -> list[str]:
    """The names of the columns that are the data's own."""
    return [name for name in rows.column_names if name != ROW]


def column(rows: "Dataset", role: str, columns: Mapping[str, str], where: str, split: str | None = None) -> str:
    """The name of the column that plays `role` in `rows`, of `split`; raises InputError when there is no such column."""
    name = columns[role]
    if name not in columns_of(rows):
        place = f"data {where!r}, split {split!r}," if split else f"data {where!r}"
        remedy = (
            "; evaluate on rows that have labels (a share of the training split: --evaluation 'train[80%:]' --calibration "
            "'train[:80%]'), or do without (init --unlabelled)" if role == "label" else ""
        )  # fmt: skip
        raise InputError(
            f"{place} has no column {name!r} (named as `{role}` in the project); "
            f"it has: {', '.join(columns_of(rows))}{remedy}"
        )
    return name


class Places:
    """Where the rows of a split are; for messages, so reading a file again to tell a line is no loss."""

    def __init__(self, data: DataSettings, split: str, root: Path):
        self.splits = open_data(data.path, root)
        self.names = selected(split, self.splits, data.path).names

    @property
    def from_files(self) -> bool:
        """Whether the rows come from local files of rows: not from the hub, nor from an image folder."""
        return isinstance(self.splits, LocalData) and self.splits.reader != IMAGES

    def of(self, row: int) -> str:
        """Where `row`, as in column `ROW`, is: its file, and the line or row there."""
        name, row = self._of_split(row)
        return self.splits.place(name, row) if isinstance(self.splits, LocalData) else f"{name}, row {row} (counted from 0)"

    def file_of(self, row: int) -> Path:
        """The local file that holds `row`."""
        assert isinstance(self.splits, LocalData)
        return self.splits.file_of(*self._of_split(row))[0]

    def _of_split(self, row: int) -> tuple[str, int]:
        *before, last = self.names
        for name in before:
            if row < (count := len(self.splits[name])):
                return name, row
            row -= count
        return last, row


def row_number(rows: "Dataset", index: int) -> int:
    """Which row of its split row `index` of `rows` is."""
    return int(rows.select_columns(ROW)[index][ROW])


def place_of(rows: "Dataset", index: int, data: DataSettings, split: str, root: Path) -> str:
    """Where row `index` of `rows`, which are some that `read_split(data, split, root)` gave, is."""
    return Places(data, split, root).of(row_number(rows, index))

