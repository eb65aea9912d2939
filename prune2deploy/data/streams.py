"""Data files as bytes or as lines of text, whatever they are compressed with."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from prune2deploy.data.file_kinds import compression_of
from prune2deploy.errors import InputError

BOM = b"\xef\xbb\xbf"
UTF16 = "it is UTF-16, and only UTF-8 is read; save the file as UTF-8"
CODECS = {".zst": "zstd", ".lz4": "lz4"}  # pyarrow's names


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of `path`, decompressed; raises InputError where they cannot be."""
    import pyarrow as pa

    kind = compression_of(path)
    readers: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with path.open("rb") as raw:
        if kind is None:
            yield raw
            return
        try:
            reader = readers[kind](raw) if kind in readers else pa.CompressedInputStream(raw, CODECS[kind])
            with io.BufferedReader(cast(io.RawIOBase, reader)) as stream:
                yield stream
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the machine's fault, not the file's
                raise
            raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}; compress it again") from None


def lines_of(path: Path) -> Iterator[str]:
    """The lines of `path`, ended by LF alone, with their ends; raises InputError, naming the line, for what is no UTF-8."""
    with opened(path) as stream:
        for number, line in enumerate(stream):
            if number == 0 and 3 * line.count(0) > len(line):  # every second byte of Latin letters
                raise InputError(f"{path}, line 1: cannot be read: {UTF16}")
            yield decoded(line.removeprefix(BOM) if number == 0 else line, f"{path}, line {number + 1}")


def decoded(data: bytes, where: str) -> str:
    """`data` as text; raises InputError where it is no UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{where}: cannot be read: {UTF16}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{where}: cannot be read: byte 0x{byte:02x} is no UTF-8; save the file as UTF-8") from None
