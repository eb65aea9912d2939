"""Kinds of files by their names and first bytes: what reads them, what they are compressed with, which go with data."""

import errno
import re
import stat
from functools import cache
from pathlib import Path

from prune2deploy.errors import InputError
from prune2deploy.files import LFS_POINTER

READERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4")
METADATA = "metadata"  # the stem of a file that says what is in images
BOOKKEEPING = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
DOCUMENTS = re.compile(
    r"(readme|licen[cs]e|notice|citation|changelog|authors|copying)([-_. ].*)?|thumbs\.db|desktop\.ini|"
    r".*\.(md|rst|html|pdf|bib|cff|py|ipynb|toml|ya?ml|lock)",
    re.IGNORECASE,
)
KNOWN = ", ".join(sorted(READERS))
FOREIGN = {  # what files begin with that are no text, whatever they are called
    b"PK\x03\x04": "a zip archive or a spreadsheet", b"\xd0\xcf\x11\xe0": "a spreadsheet of old",
    b"\x1f\x8b": "compressed (.gz)", b"BZh": "compressed (.bz2)", b"\xfd7zXZ": "compressed (.xz)",
    b"\x28\xb5\x2f\xfd": "compressed (.zst)", b"\x04\x22\x4d\x18": "compressed (.lz4)",
    b"PAR1": "a Parquet file", b"SQLite format": "a database", b"%PDF": "a PDF document",
}  # fmt: skip


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of what Pillow opens, in lower case."""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def is_image(path: Path) -> bool:
    """Whether a file of this name is an image."""
    return path.suffix.lower() in image_suffixes()


def compression_of(path: Path) -> str | None:
    """The suffix that says how `path` is compressed, if it is."""
    return path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else None


def uncompressed_name(path: Path) -> Path:
    """The name without the suffix of a compression."""
    return path.with_suffix("") if compression_of(path) else path


def reader_of(path: Path) -> str | None:
    """How files of this name are read; None where they are not."""
    return READERS.get(uncompressed_name(path).suffix.lower())


def is_document(path: Path) -> bool:
    """Whether a file of this name goes with data and is none."""
    if path.name.lower() in BOOKKEEPING:
        return True
    return reader_of(path) is None and DOCUMENTS.fullmatch(path.name) is not None


def is_data(path: Path) -> bool:
    """Whether `path` is a file of rows, by its name."""
    return reader_of(path) is not None and not is_document(path) and not path.is_dir()


def check_file(path: Path) -> None:
    """Raise InputError where `path` is a link to nothing, no file, a placeholder, empty, or text by its name alone."""
    try:
        found = path.stat()
    except OSError as error:
        if not path.is_symlink() or error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        target = path.readlink()
        raise InputError(f"{path}: links to {target}, which is not there; download the data again, or remove it") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: is no file, though it is called as one; rename or remove it")
    if found.st_size == 0:
        raise InputError(f"{path}: the file is empty")
    is_text = reader_of(path) in ("csv", "json") and not compression_of(path)
    if found.st_size < 1024 or is_text:
        with path.open("rb") as stream:
            start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise InputError(f"{path}: a pointer of git-lfs in place of the data; run `git lfs pull` in its folder")
        if is_text and (kind := next((kind for mark, kind in FOREIGN.items() if start.startswith(mark)), None)):
            raise InputError(f"{path}: is {kind} and not what its name says; save it as text, or give it its own suffix")
