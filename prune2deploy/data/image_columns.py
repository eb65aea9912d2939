"""Columns of images as people have them: paths, bytes, or both in one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from prune2deploy.config import DataSettings
from prune2deploy.data.splits import Places, row_number
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

ENCODED = re.compile(r"[A-Za-z0-9+/\r\n]+={0,2}\s*")
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
BATCH = 256  # images whose bytes are looked at together
FIELDS = {"bytes": ("binary", "large_binary"), "path": ("string", "large_string")}  # of datasets' image structs
LONGEST = 80  # letters of a value in a message


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
            f"data {data.path!r}, split {split!r}: column {column!r} is {' '.join(str(kind).split())[:80]}: no paths, bytes "
            "or images; name the column of images with --image"
        )
    if isinstance(kind, dict):
        rows = _bare(rows, column)
    stored = rows.cast_column(column, datasets.Image(decode=False))
    found = {}
    for index, (has_bytes, path) in enumerate(_stored(stored, column)):
        if not has_bytes:
            place = f"{places.of(row_number(rows, index))} (split {split!r})"
            found[index] = _found(path, column, _folder(rows, index, places), place)
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
        fields = {name: getattr(field, "dtype", None) for name, field in kind.items() if name in FIELDS}
        return bool(fields) and all(dtype in (*FIELDS[name], "null") for name, dtype in fields.items())
    is_value = isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string", "binary", "large_binary")
    return is_value or isinstance(kind, datasets.Image)


def _stored(rows: "Dataset", column: str) -> Iterator[tuple[bool, str | None]]:
    """Of each row, whether it holds the image itself, and the path that it names; no bytes are no image."""
    import pyarrow.compute as pc

    for batch in rows.select_columns(column).with_format("arrow").iter(BATCH):
        values = batch[column].combine_chunks()
        sizes = pc.binary_length(pc.struct_field(values, "bytes")).to_pylist()
        yield from zip(map(bool, sizes), pc.struct_field(values, "path").to_pylist(), strict=True)


def _bare(rows: "Dataset", column: str) -> "Dataset":
    """`rows` with nothing in the structs of `column` but an image; people keep its size, say, there as well."""
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc

    if set(rows.features[column]) == set(FIELDS):
        return rows

    def taken(batch: "pa.Table") -> "pa.Table":
        values = batch[column].combine_chunks()
        names = [field.name for field in values.type]
        found = [
            pc.struct_field(values, name).cast(kinds[0]) if name in names else pa.nulls(len(values), kinds[0])
            for name, kinds in FIELDS.items()
        ]
        structs = pa.StructArray.from_arrays(found, list(FIELDS), mask=values.is_null())
        return batch.set_column(batch.column_names.index(column), column, structs)

    struct = {name: datasets.Value(kinds[0]) for name, kinds in FIELDS.items()}
    features = datasets.Features({**rows.features, column: struct})
    return rows.with_format("arrow").map(
        taken, batched=True, batch_size=BATCH, features=features, new_fingerprint=uuid4().hex
    ).with_format(None)  # fmt: skip


def _folder(rows: "Dataset", index: int, places: Places) -> Path | None:
    """Where paths in row `index` are seen from; None where they are no local ones."""
    return places.file_of(row_number(rows, index)).parent.absolute() if places.from_files else None


def _found(path: str | None, column: str, folder: Path | None, place: str) -> Path:
    """The file that `path`, in the row at `place`, names; raises InputError where there is none."""
    if not path:
        raise InputError(f"{place}: no image in column {column!r}; leave the row out")
    shown = path if len(path) <= LONGEST else f"{path[:LONGEST]}…"
    if path.startswith("data:") or (len(path) > 255 and ENCODED.fullmatch(path)):
        raise InputError(f"{place}: {shown!r} is no path but an image in base64; store bytes (in a Parquet file), or files")
    if URL.match(path) or folder is None:
        raise InputError(f"{place}: {shown!r} is no file here; download the images, and name their files")
    for spelling in (path, path.replace("\\", "/")):
        if _is_file(folder / spelling):
            return folder / spelling
    if len(path) < 255 and (folder / path).is_symlink():
        raise InputError(f"{place}: {shown!r} is a link to nothing; download the images again")
    raise InputError(f"{place}: no image {shown!r} in {folder}; paths are seen from the folder of the data file")


def _is_file(path: Path) -> bool:
    """Whether there is a file at `path`, which may be anything."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a path, or with letters that none has
        return False
