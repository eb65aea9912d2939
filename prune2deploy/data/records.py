"""Rows of text with a delimiter, in the two ways in which people write them: every line a row, or with quoted fields."""

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prune2deploy.data.streams import lines_of
from prune2deploy.errors import InputError

QUOTED = re.compile(r'"((?:[^"]|"")*)"')
REMEDY = "double the quotation marks inside quoted fields, or save the rows as jsonl"


@dataclass
class Record:
    """One row: the number of its first line, its fields, and its lines as they are."""

    line: int
    fields: list[str]
    lines: list[str]

    def raw(self, delimiter: str) -> list[str]:
        """The fields of a row of `quoted_records`, with the quotation marks around them and in them."""
        text = "".join(self.lines).rstrip("\r\n")
        return re.findall(rf'(?:\A|{delimiter})("(?:[^"]|"")*"(?={delimiter}|\Z)|[^{delimiter}]*)', text)


def plain_records(path: Path) -> Iterator[Record]:
    """Every line a row, every tab a border, every quotation mark a letter."""
    for number, line in enumerate(_lines(path), 1):
        bare = line.rstrip("\n").removesuffix("\r")
        if bare.strip() or "\t" in bare:
            yield Record(number, bare.split("\t"), [line])


def quoted_records(path: Path, delimiter: str) -> Iterator[Record]:
    """Rows as csv writers write them; strict, so that a quotation mark in the wrong place is an error."""
    csv.field_size_limit(sys.maxsize)  # a text may be as long as it likes
    taken: list[str] = []
    reader = csv.reader(_noted(_ended(lines_of(path)), taken), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(_problem(path, start, len(taken), error)) from None
        if fields is None:
            return
        if len(fields) > 1 or "".join(taken).strip():
            yield Record(start, fields, list(taken))
        start += len(taken)
        taken.clear()


def _problem(path: Path, line: int, lines: int, error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return f"{path}, line {line}: cannot be read: a quotation mark opens a field that is never closed; {REMEDY}"
    if "after" in str(error):
        opened = f", in a field that opens in line {line}" if lines > 1 else ""
        where = f"{path}, line {line + lines - 1}"
        return f"{where}: cannot be read: text follows a closing quotation mark{opened}; {REMEDY}"
    return f"{path}, line {line + max(lines, 1) - 1}: cannot be read: {error}"


def _lines(path: Path) -> Iterator[str]:
    """The lines of `path`, ended by CR where no LF is in it, as on old machines."""
    for number, line in enumerate(lines_of(path)):
        if number == 0 and "\r" in line and not line.endswith("\n"):  # this is all there is
            yield from _ended([line])
        else:
            yield line


def _ended(lines: Iterable[str]) -> Iterator[str]:
    """`lines`, cut after each CR that ends a line as well: on old machines it did so alone."""
    for line in lines:
        yield from re.split(r"(?<=\r)(?!\n)", line) if "\r" in line else (line,)


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        if line:
            taken.append(line)
            yield line
