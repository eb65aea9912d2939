"""CSV and TSV files as columns of text: nothing is taken for a number, a truth value or something missing.

What a line is differs between people: GLUE ships tables in which a quotation mark is a letter, spreadsheets and csv
writers quote fields, in which a line may end without ending the row. Wherever the two readings differ in what a row is,
and nothing tells which is meant, the file is refused.
"""

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.data.layout import uncompressed_name
from prune2deploy.data.streams import lines_of
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 10_000  # rows that are made columns of at a time
FEW = 1000  # distinct values, at most, of a column whose values can be told from text
SWALLOWED = 8  # lines, at least, that tell by themselves which column has few values
QUOTED = re.compile(r'"((?:[^"]|"")*)"')


@dataclass
class Record:
    """One row: the number of its first line, its fields, and its lines as they are."""

    line: int
    fields: list[str]
    lines: list[str]


def read_delimited(path: Path) -> Iterator["pa.Table"]:
    """The rows of `path` in chunks, every column a column of strings; an empty field is an empty string."""
    import pyarrow as pa

    records = records_of(path)
    header = next(records)
    names = _names(header, path)
    schema = pa.schema([(name, pa.string()) for name in names])
    while True:
        rows = [record.fields for record in islice(records, CHUNK)]
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        yield pa.table([pa.array(list(column), pa.string()) for column in columns], schema=schema)
        if len(rows) < CHUNK:
            return


def line_of_record(path: Path, row: int) -> int:
    """The number of the line in which `row` of `path`, counted from 0, begins."""
    return next(islice(records_of(path), row + 1, None)).line


def records_of(path: Path) -> Iterator[Record]:
    """The header and the rows of `path`; blank lines are none. Raises InputError, naming the line, for what is no table."""
    if uncompressed_name(path).suffix.lower() != ".tsv":
        return _checked(_quoted(path, ","), path, ",")
    if _is_plain(path):
        return _checked(_plain(path), path, "\t")
    try:
        for _ in _checked(_quoted(path, "\t"), path, "\t"):
            pass
    except InputError:
        if not _header_is_quoted(path):
            # neither reading is whole: of the two, lines that are rows are what people can mend
            return _checked(_plain(path), path, "\t")
        raise
    return _checked(_quoted(path, "\t"), path, "\t")


def _plain(path: Path) -> Iterator[Record]:
    """Every line a row, every tab a border, every quotation mark a letter."""
    for number, line in enumerate(lines_of(path), 1):
        bare = line.removesuffix("\n").removesuffix("\r")
        if bare:
            yield Record(number, bare.split("\t"), [line])


def _quoted(path: Path, delimiter: str) -> Iterator[Record]:
    """Rows as csv writers write them; strict, so that a quotation mark in the wrong place is an error."""
    csv.field_size_limit(sys.maxsize)  # a text may be as long as it likes
    taken: list[str] = []
    reader = csv.reader(_noted(_ended(lines_of(path)), taken), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(_csv_problem(path, start, len(taken), error)) from None
        if fields is None:
            return
        if fields:
            yield Record(start, fields, list(taken))
        start += len(taken)
        taken.clear()


def _csv_problem(path: Path, line: int, lines: int, error: csv.Error) -> str:
    remedy = "double the quotation marks inside quoted fields, or save the rows as jsonl"
    if "unexpected end" in str(error):
        return f"{path}, line {line}: cannot be read: a quotation mark opens a field that is never closed; {remedy}"
    if "after" in str(error):
        opened = f", in a field that opens in line {line}" if lines > 1 else ""
        where = f"{path}, line {line + lines - 1}"
        return f"{where}: cannot be read: text follows a closing quotation mark{opened}; {remedy}"
    return f"{path}, line {line + max(lines, 1) - 1}: cannot be read: {error}"


def _ended(lines: Iterable[str]) -> Iterator[str]:
    """`lines`, cut after each CR that ends a line as well: on old machines it did so alone."""
    for line in lines:
        yield from re.split(r"(?<=\r)(?!\n)", line) if "\r" in line else (line,)


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        if line:
            taken.append(line)
            yield line


def _header_is_quoted(path: Path) -> bool:
    header = next(_plain(path), None)
    return header is not None and all(QUOTED.fullmatch(name) for name in header.fields)


def _is_plain(path: Path) -> bool:
    """Whether a TSV file means its quotation marks as letters: all lines are rows then, and no csv writer's hand shows.

    A writer quotes all fields, or those that need it, and doubles the marks inside.
    """
    if _header_is_quoted(path):
        return False
    width, opening, doubled = None, 0, 0
    for record in _plain(path):
        width = width or len(record.fields)
        if len(record.fields) != width:
            return False
        for value in record.fields:
            if value.startswith('"'):
                opening += 1
                inside = QUOTED.fullmatch(value)
                doubled += inside is not None and '"' in inside[1]
    return not opening or doubled < opening


def _checked(records: Iterator[Record], path: Path, delimiter: str) -> Iterator[Record]:
    """`records`, as long as each has as many fields as the header, and none has swallowed others."""
    header = next(records, None)
    if header is None:
        raise InputError(f"{path}: no lines but blank ones")
    width = len(header.fields)
    yield header
    watch = _Watch(width, delimiter)
    for record in records:
        if (count := len(record.fields)) != width:
            raise InputError(
                f"{path}, line {record.line}: {count} field{'s' if count != 1 else ''} where the header has {width} "
                f"({_cut(', '.join(header.fields))}); quote what holds a delimiter, or save the rows as jsonl"
            )
        watch.see(record)
        yield record
    if swallowing := watch.swallowing():
        raise InputError(
            f"{path}, line {swallowing.line}: a quotation mark opens a field that swallows {len(swallowing.lines) - 1} "
            "lines, which look like rows; double quotation marks that are meant as such, or save the rows as jsonl"
        )


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"


@dataclass
class _Watch:
    """Looks for rows of several lines each of which could be a row of its own.

    A text may well hold line breaks and delimiters. But where each of its lines has as many fields as the header, and in
    one column none but values that other rows have again and again there, such as labels, the lines were rows.
    """

    width: int
    delimiter: str
    values: list[dict[str, int] | None] = field(init=False)
    suspects: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [{} for _ in range(self.width)]

    def see(self, record: Record) -> None:
        """Remember what `record` tells."""
        if len(record.lines) > 1:
            if self.width > 1 and all(len(row) == self.width for row in self._apart(record)):
                self.suspects.append(record)
            return
        for column, value in enumerate(record.fields):
            seen = self.values[column]
            if seen is not None:
                seen[value] = seen.get(value, 0) + 1
                if len(seen) > FEW:
                    self.values[column] = None  # a column of texts

    def swallowing(self) -> Record | None:
        """The first row that has swallowed others."""
        return next((record for record in self.suspects if self._is_swallowing(record)), None)

    def _is_swallowing(self, record: Record) -> bool:
        for column, seen in enumerate(self.values):
            found = [row[column].strip('"') for row in self._apart(record)]
            if not all(found):
                continue
            if seen and 2 * len(seen) <= sum(seen.values()) and all(value in seen for value in found):
                return True
            if len(found) >= SWALLOWED and 2 * len(set(found)) <= len(found):
                return True
        return False

    def _apart(self, record: Record) -> list[list[str]]:
        return [line.rstrip("\r\n").split(self.delimiter) for line in record.lines]


def _names(header: Record, path: Path) -> list[str]:
    """The names of the columns; one without a name, as pandas writes its index, is called by its number."""
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header.fields)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}, line {header.line}: two columns are called {twice!r}; is the first line a header?")
    return names
