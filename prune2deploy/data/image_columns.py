"""Columns of images as people have them: paths, bytes, or both in one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.config import DataSettings
from prune2deploy.data.splits import Places, row_number
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
BATCH = 256  # images whose bytes are looked at together


def as_images(rows: "Dataset", column: str, data: DataSettings, split: str, root: Path) -> "Dataset":
    """`rows`, of `read_split(data, split, root)`, with `column` as images.

    Paths are seen from the file that holds the row. Raises InputError, naming the row, where there is no image.
    """
    import datasets

    places = Places(data, split, root)
    kind = rows.features[column]
    if isinstance(kind, datasets.Image) and not places.from_files:
        return rows  # of the hub or of an image folder: what is there is where datasets looks for it
    if not _may_be_images(kind):
        raise InputError(
            f"data {data.path!r}: column {column!r} is {' '.join(str(kind).split())[:80]}: no paths, bytes or images; name "
            "the column of images with --image"
        )
    stored = rows.cast_column(column, datasets.Image(decode=False))
    found = {}
    for index, (has_bytes, path) in enumerate(_stored(stored, column)):
        if not has_bytes:
            found[index] = _found(path, column, row_number(rows, index), places)
    if not found:
        return stored.cast_column(column, datasets.Image())
    values = [found[index] if index in found else stored[index][column] for index in range(len(rows))]
    replaced = rows.remove_columns(column).add_column(column, [
        {"bytes": None, "path": str(value)} if isinstance(value, Path) else value for value in values
    ])  # fmt: skip
    return replaced.cast_column(column, datasets.Image()).select_columns(rows.column_names)


def _may_be_images(kind: object) -> bool:
    import datasets

    if isinstance(kind, dict):
        return set(kind) <= {"bytes", "path"}
    is_value = isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string", "binary", "large_binary")
    return is_value or isinstance(kind, datasets.Image)


def _stored(rows: "Dataset", column: str) -> Iterator[tuple[bool, str | None]]:
    """Of each row, whether it holds the image itself, and the path that it names."""
    for batch in rows.select_columns(column).with_format("arrow").iter(BATCH):
        values = batch[column].combine_chunks()
        yield from zip(values.field("bytes").is_valid().to_pylist(), values.field("path").to_pylist(), strict=True)


def _found(path: str | None, column: str, row: int, places: Places) -> Path:
    """The file that `path`, in `row`, names; raises InputError where there is none."""
    if not path:
        raise InputError(f"{places.of(row)}: no image in column {column!r}; leave the row out")
    if URL.match(path) or not places.from_files:
        raise InputError(f"{places.of(row)}: {path[:80]!r} is no file here; download the images, and name their files")
    folder = places.file_of(row).parent.absolute()
    for spelling in (path, path.replace("\\", "/")):
        if (folder / spelling).is_file():
            return folder / spelling
    raise InputError(f"{places.of(row)}: no image {path!r} in {folder}; paths are seen from the folder of the data file")
