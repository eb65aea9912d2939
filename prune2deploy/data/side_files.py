"""Files that lie beside data, are written as data might be, and are none: lists of classes, settings, annotations."""

import json
import re
from pathlib import Path
from typing import Any

from prune2deploy.data.file_kinds import METADATA, image_suffixes, is_image, reader_of, uncompressed_name
from prune2deploy.data.shards import stem_of
from prune2deploy.data.split_names import kind_of
from prune2deploy.data.streams import opened
from prune2deploy.data.walking import walk
from prune2deploy.errors import InputError

LARGEST = 1 << 20  # bytes of a file of settings, at most
SAMPLE = 1 << 16  # bytes of a file that show whether it names images


def without_side_files(files: list[Path]) -> list[Path]:
    """`files` without those that hold no rows and are called after no split; all of them where nothing else is there."""
    kept = [path for path in files if kind_of(stem_of(path)) or not _holds_no_rows(path)]
    return kept or files


def _holds_no_rows(path: Path) -> bool:
    """Whether `path` is a small JSON file of something else than rows: a mapping, a list of names."""
    if path.suffix.lower() != ".json" or not path.is_file() or path.stat().st_size > LARGEST:
        return False
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False  # what is wrong with it will be said by its reader
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        return len(lists) < 2 and not any(map(_is_rows, lists))
    return not _is_rows(value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def describes_images(files: list[Path]) -> bool:
    """Whether one of `files` is one that says what is in images."""
    return any(uncompressed_name(path).stem.lower() == METADATA for path in files)


def is_beside_images(root: Path, files: list[Path]) -> bool:
    """Whether `files`, data by their names, lie beside images that folders sort, and say nothing that is needed of them."""
    if any(kind_of(stem_of(path)) or _names_images(path) for path in files):
        return False
    return any(is_image(path) and len(path.relative_to(root).parts) > 1 for path in walk(root))


def _names_images(path: Path) -> bool:
    """Whether the rows of `path` may be of images: the beginning of a text says so, anything else might hold them."""
    if reader_of(path) == "parquet":
        return True
    try:
        with opened(path) as stream:
            start = stream.read(SAMPLE)
    except InputError:
        return True  # which its reader will say
    suffixes = b"|".join(re.escape(suffix.encode()) for suffix in image_suffixes())
    return re.search(rb"(?i)(?:" + suffixes + rb")(?![0-9a-z])", start) is not None
