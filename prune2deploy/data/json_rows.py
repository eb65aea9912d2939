"""JSON files as columns: an object a line, a list of objects, or one object that holds the rows or the columns."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.data.file_kinds import uncompressed_name
from prune2deploy.data.split_names import kind_of
from prune2deploy.data.streams import BOM, decoded, lines_of, opened
from prune2deploy.data.values import as_text
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 10_000  # rows that are made columns of at a time
LINES = (".jsonl", ".ndjson")  # suffixes of files whose every object is a row
EXPECTED = "expected one object a line, a list of objects, or an object that holds such a list or lists of equal length"
Row = tuple[str, Any]  # where it stands in its file, and what it is


def read_json(path: Path) -> "list[pa.Table]":
    """The rows of `path`, in chunks of one schema; what a row lacks is null."""
    import pyarrow as pa

    rows, chunks = rows_of(path), []
    while chunk := list(islice(rows, CHUNK)):
        names = dict.fromkeys(chain.from_iterable(_named(row, path) for row in chunk))
        if strange := next((name for name in names if not _is_unicode(name)), None):
            where = next(where for where, row in chunk if strange in row)
            raise InputError(f"{path}, {where}: the name {strange!a} holds half a surrogate pair; mend it")
        columns = {name: _column([(where, row.get(name)) for where, row in chunk], name, path) for name in names}
        chunks.append(pa.table(columns))
    return unified(chunks)


def place_of_row(path: Path, row: int) -> str:
    """Where `row` of `path`, counted from 0, stands in it."""
    return next(islice(rows_of(path), row, None))[0]


def rows_of(path: Path) -> Iterator[Row]:
    """Every row of `path`, with the line or the row that it is; raises InputError, naming it, for what is no JSON."""
    numbered = ((number, line) for number, line in enumerate(lines_of(path), 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise InputError(f"{path}: no lines but blank ones")
    second = next(numbered, None)
    alone = None
    with suppress(ValueError, RecursionError):
        alone = json.loads(first[1])
    is_lines = uncompressed_name(path).suffix.lower() in LINES
    if isinstance(alone, dict) and (second or is_lines):
        return _rows_of_lines(path, chain([first] if second is None else [first, second], numbered))
    document = _document(path, first if is_lines else None) if alone is None or second else alone
    if is_lines and isinstance(document, dict):
        return iter([(f"line {first[0]}", document)])
    return iter(_rows_of_document(path, document))


def _document(path: Path, first: tuple[int, str] | None) -> Any:
    """All of `path` as one value; `first`: the first line, where it should have been one by itself, is what is wrong."""
    with opened(path) as stream:
        text = decoded(stream.read().removeprefix(BOM), str(path))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = _no_json(path, error, getattr(error, "lineno", 1))
        if first is None or first[1].lstrip().startswith("[") or getattr(error, "msg", "") == "Extra data":
            raise problem from None
    return next(_rows_of_lines(path, [first]))[1]


def _rows_of_lines(path: Path, numbered: Iterable[tuple[int, str]]) -> Iterator[Row]:
    for number, line in numbered:
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _no_json(path, error, number) from None


def _rows_of_document(path: Path, value: Any) -> list[Row]:
    if isinstance(value, dict):
        _check_no_other_form(path, value)
    rows = _rows_in(value) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise InputError(f"{path}: cannot be read: holds one {_kind(value)}; {EXPECTED}")
    if all(isinstance(row, str) for row in rows):
        rows = [{"text": row} for row in rows]
    return [(f"row {number} (counted from 0)", row) for number, row in enumerate(rows)]


def _check_no_other_form(path: Path, value: dict[str, Any]) -> None:
    """Raise InputError for splits in one file, and for what pandas writes where one does not say otherwise."""
    held = {name: items for name, items in value.items() if isinstance(items, list | dict)}
    splits = [name for name, items in held.items() if kind_of(name)]
    if len(splits) > 1 and len(splits) == len(held):
        raise InputError(
            f"{path}: holds several splits ({', '.join(splits)}), and a file is one; write each to a file of its own, "
            f"such as {splits[0]}.jsonl"
        )
    are_tables = len(held) == len(value) > 0 and all(isinstance(items, dict) and items for items in value.values())
    cells = [cell for items in value.values() for cell in items.values()] if are_tables else []
    are_cells = bool(cells) and not any(isinstance(cell, list) for cell in cells)
    keys = {tuple(items) for items in value.values()} if are_cells else set()
    if len(keys) == 1 or set(value) == {"columns", "index", "data"}:
        raise InputError(f"{path}: holds a table as pandas writes it by default; write it with to_json(…, orient='records')")


def _rows_in(value: dict[str, Any]) -> list[Any] | None:
    """The rows in an object: its columns row by row, or the one list of objects that it holds; else it is a row itself."""
    lists = {name: items for name, items in value.items() if isinstance(items, list)}
    tables = [items for items in lists.values() if items and all(isinstance(item, dict) for item in items)]
    are_columns = 0 < len(lists) == len(value) and len({len(items) for items in lists.values()}) == 1
    if are_columns and len(lists) > len(tables):
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    if len(tables) > 1:
        return None
    return tables[0] if tables else [value]


def _no_json(path: Path, error: Exception, line: int) -> InputError:
    reason = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else str(error))
    hint = f"; {EXPECTED}" if reason == "Extra data" else ""
    return InputError(f"{path}, line {line}: cannot be read as JSON: {reason}{hint}")


def _named(row: Row, path: Path) -> Iterable[str]:
    where, value = row
    if not isinstance(value, dict):
        raise InputError(f"{path}, {where}: cannot be read: a {_kind(value)} in place of an object with named columns")
    return value


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", str: "string", bool: "truth value", type(None): "null"}.get(type(value), "number")


def _column(rows: list[Row], name: str, path: Path) -> "pa.Array":
    """One column of a chunk, of the type that its values have in common."""
    try:
        return column_of([value for _, value in rows])
    except UnicodeEncodeError:
        where = next(where for where, value in rows if not _is_unicode(value))
        raise InputError(f"{path}, {where}: {name!r} holds half a surrogate pair, which is no letter; mend it") from None


def column_of(values: list[Any]) -> "pa.Array":
    """`values` as a column, of the type that they have in common."""
    import pyarrow as pa

    kinds = {type(value) for value in values} - {type(None)}
    if bool in kinds and len(kinds) > 1:  # pyarrow would make 1.0 of a True among floats
        return _alike(values)
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return _alike(values)


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _alike(values: list[Any]) -> "pa.Array":
    """Values of several kinds in one column: words and numbers as text, as labels are read; lists and objects as JSON.

    The JSON is kept as bytes, which nobody takes for a text.
    """
    import pyarrow as pa

    if any(isinstance(value, list | dict) for value in values):
        return pa.array([None if value is None else json.dumps(value).encode() for value in values], pa.binary())
    return pa.array([as_text(value) for value in values], pa.string())


def unified(tables: "list[pa.Table]") -> "list[pa.Table]":
    """`tables` with the columns of all of them, each of one type; what one lacks is null."""
    import pyarrow as pa

    names = dict.fromkeys(chain.from_iterable(table.column_names for table in tables))
    columns = {name: _one_type([_chunks(table, name) for table in tables]) for name in names}
    return [pa.table({name: column[index] for name, column in columns.items()}) for index in range(len(tables))]


def _chunks(table: "pa.Table", name: str) -> "pa.ChunkedArray":
    import pyarrow as pa

    return table[name] if name in table.column_names else pa.chunked_array([pa.nulls(len(table))])


def _one_type(chunks: "list[pa.ChunkedArray]") -> "list[pa.ChunkedArray]":
    import pyarrow as pa

    schemas = [pa.schema([("", chunk.type)]) for chunk in chunks]
    try:
        wanted = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        return [chunk.cast(wanted) for chunk in chunks]
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        if any(pa.types.is_nested(chunk.type) or pa.types.is_binary(chunk.type) for chunk in chunks):
            return [pa.chunked_array([_as_json(chunk)]) for chunk in chunks]
        texts = [[as_text(value) for value in chunk.to_pylist()] for chunk in chunks]
        return [pa.chunked_array([pa.array(values, pa.string())]) for values in texts]


def _as_json(chunk: "pa.ChunkedArray") -> "pa.Array":
    import pyarrow as pa

    if pa.types.is_binary(chunk.type):  # JSON already
        return chunk.combine_chunks()
    return pa.array([None if value is None else json.dumps(value).encode() for value in chunk.to_pylist()], pa.binary())
