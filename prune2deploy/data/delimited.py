"""CSV and TSV files as columns of text: nothing is taken for a number, a truth value or something missing.

What a line is differs between people: GLUE ships tables in which a quotation mark is a letter, spreadsheets and csv
writers quote fields, in which a line may end without ending the row. Wherever the two readings differ in what a row is,
and nothing tells which is meant, the file is refused.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.data.file_kinds import uncompressed_name
from prune2deploy.data.quoting import tsv_records
from prune2deploy.data.records import Record, quoted_records
from prune2deploy.data.swallowed import Watch
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 10_000  # rows that are made columns of at a time
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


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
    if uncompressed_name(path).suffix.lower() == ".tsv":
        return tsv_records(path, _checked)
    return _checked(quoted_records(path, ","), path, ",")


def _checked(records: Iterator[Record], path: Path, delimiter: str) -> Iterator[Record]:
    """`records`, as long as each has as many fields as the header, and none has swallowed others."""
    header = next(records, None)
    if header is None:
        raise InputError(f"{path}: no lines but blank ones")
    _check_delimiter(header, path, delimiter)
    width = len(header.fields)
    yield header
    watch = Watch(header, delimiter)
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


def _check_delimiter(header: Record, path: Path, delimiter: str) -> None:
    """Raise InputError where the one name in the header is several, with something else between them."""
    if delimiter != "," or len(header.fields) > 1:
        return
    if other := next((other for other in OTHER_DELIMITERS if other in header.fields[0].strip()), None):
        remedy = "rename it to .tsv" if other == "\t" else "save it with commas, or as .tsv or jsonl"
        raise InputError(
            f"{path}, line {header.line}: {OTHER_DELIMITERS[other]} and no commas between the names of the columns "
            f"({_cut(header.fields[0])}); {remedy}"
        )


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"


def _names(header: Record, path: Path) -> list[str]:
    """The names of the columns; one without a name, as pandas writes its index, is called by its number."""
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(header.fields)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}, line {header.line}: two columns are called {twice!r}; is the first line a header?")
    if unspeakable := next((name for name in names if "\0" in name), None):
        raise InputError(f"{path}, line {header.line}: the name of column {unspeakable!r} holds a NUL; rename the column")
    return names
