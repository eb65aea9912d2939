"""Parquet files, and the Arrow files that datasets' `save_to_disk` writes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.data.file_kinds import compression_of
from prune2deploy.data.streams import opened
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1000  # at a time: a row may be a large image
PANDAS_INDEX = "__index_level_0__"  # a column that pandas adds on writing, and takes away on reading


def read_parquet(path: Path) -> Iterator["pa.Table"]:
    """The rows of `path` in chunks of one schema; raises InputError where it is no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(path) as stream:
        try:
            file = pq.ParquetFile(pa.BufferReader(stream.read()) if compression_of(path) else stream)
            columns = [name for name in file.schema_arrow.names if name != PANDAS_INDEX]
            yield _plain(file.schema_arrow.empty_table().select(columns))
            for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                yield _plain(pa.Table.from_batches([batch]).replace_schema_metadata(file.schema_arrow.metadata))
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:
            raise _unreadable(path, error) from None


def saved_splits(folder: Path) -> dict[str, Path]:
    """The folder of each split that `save_to_disk` wrote to `folder`."""
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return {"train": folder}
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["splits"]
        return {str(name): folder / str(name) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(index, error) from None


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of one split that `save_to_disk` wrote, in order."""
    state = folder / "state.json"
    try:
        return [folder / str(file["filename"]) for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except FileNotFoundError:
        raise InputError(f"{state}: no such file; save the data set again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(state, error) from None


def read_arrow(path: Path) -> Iterator["pa.Table"]:
    """The rows of an Arrow file in chunks."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            yield _plain(stream.schema.empty_table())
            for batch in stream:
                yield _plain(pa.Table.from_batches([batch]))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; save the data set again") from None
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise _unreadable(path, error) from None


def _plain(table: "pa.Table") -> "pa.Table":
    """`table` with the values themselves where it has numbers of entries in a dictionary (pandas' categories)."""
    import pyarrow as pa

    for place, kind in enumerate(table.schema):
        if pa.types.is_dictionary(kind.type):
            table = table.set_column(place, kind.name, table.column(place).cast(kind.type.value_type))
    return table


def _unreadable(path: Path, error: Exception) -> Exception:
    """What to raise for `error`: itself where the machine is to blame and not the file."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return InputError(f"{path}: cannot be read: {reason}; write the file again")
