"""Data sets of the hub, and never something else of the same name."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prune2deploy.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

COMMIT = re.compile(r"[0-9a-f]{40}")
REMOTE = re.compile(r"(hf|https?)://")


def hub_data(path: str) -> "Mapping[str, Dataset]":
    """The splits of the hub's data set `name[:config]`; raises InputError where the hub did not give it, now or before.

    The caller has looked for folders of that name: datasets would take one in the current directory for the data set. It
    also keeps what it once made of local folders, by their names alone, for when the hub is out of reach.
    """
    import datasets

    datasets.disable_progress_bars()
    for logger in ("datasets", "huggingface_hub"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # what they log as errors is raised as well
    name, _, config = path.partition(":")
    try:
        splits: Mapping[str, Dataset] = datasets.load_dataset(name, config or None, keep_in_memory=False)
    except Exception as error:  # of many kinds, wrapped in others
        if isinstance(error, OSError) and error.errno is not None:
            raise
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
        raise InputError(f"{_nothing(path)}: {reason}") from None
    if not all(_is_of_hub(rows) for rows in splits.values()):
        raise InputError(
            f"{_nothing(path)}: what datasets has under this name in its cache was made of a local folder; name that "
            "folder, or go online"
        )
    return splits


def _nothing(path: str) -> str:
    return f"data {path[:200]!r}: nothing of that name here, and the hub did not give it"


def _is_of_hub(rows: "Dataset") -> bool:
    """Whether `rows` were made of files of the hub: their addresses say so, or else the commit that names their folder."""
    if sources := rows.info.download_checksums:
        return all(REMOTE.match(source) for source in sources)
    return any(COMMIT.fullmatch(Path(file["filename"]).parent.name) for file in rows.cache_files)
