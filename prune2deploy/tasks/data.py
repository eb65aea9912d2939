"""Reading data sets: hub data sets and local json, jsonl, csv, tsv and parquet files or image folders."""

import glob
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.config import DataSettings
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
SPLIT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<start>\d*)%?:(?P<stop>\d*)%?\])?")
EVALUATION_NAMES = ("validation", "valid", "val", "dev", "validation_matched", "test")
SPLIT_FOLDERS = ("train", *EVALUATION_NAMES)


def open_data(path: str, root: Path) -> "DatasetDict":
    """Every split of the data at `path`: a local file or directory, or a hub data set `name[:config]`.

    Raises InputError where there is none or it cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log as errors is raised as well
    local = root / Path(path).expanduser()
    if not local.exists() and (path.startswith((".", "/", "~")) or local.suffix in BUILDERS or path.count("/") > 1):
        raise InputError(f"{local}: no such data file or directory")
    try:
        if local.exists():
            return _open_local(local)
        name, _, config = path.partition(":")
        return datasets.load_dataset(name, config or None)
    except InputError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise _unreadable(path, local.exists(), error) from None
    except Exception as error:  # datasets wraps the parsers' errors in many kinds
        raise _unreadable(path, local.exists(), error) from None


def _unreadable(path: str, is_local: bool, error: Exception) -> InputError:
    cause = error.__cause__ or error
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
    if is_local:
        return InputError(f"data {path!r} cannot be read: {reason}")
    return InputError(f"data {path!r}: nothing of that name here, and the hub did not give it: {reason}")


def _open_local(local: Path) -> "DatasetDict":
    from datasets import DatasetDict, load_dataset

    files = [local] if local.is_file() else sorted(file for file in local.iterdir() if file.suffix in BUILDERS)
    if local.is_file() and local.suffix not in BUILDERS:
        raise InputError(f"{local}: unknown kind of data file; known are {', '.join(sorted(BUILDERS))}")
    if local.is_dir() and (not files or any(file.stem == "metadata" for file in files)):
        return _open_images(local)
    if empty := [file for file in files if file.stat().st_size == 0]:
        raise InputError(f"{empty[0]}: the file is empty")
    kinds = {BUILDERS[file.suffix] for file in files}
    if len(kinds) > 1:
        raise InputError(f"{local}: holds files of several kinds ({', '.join(sorted(kinds))}); keep one, or name one file")
    by_split = {"train": str(local)} if local.is_file() else {file.stem: str(file) for file in files}
    options = {"sep": "\t"} if files[0].suffix == ".tsv" else {}
    kind = kinds.pop()
    # one by one: splits need not have the same columns, as where the evaluation split alone has labels
    return DatasetDict(
        {name: load_dataset(kind, data_files={name: file}, split=name, **options) for name, file in by_split.items()}
    )


def _open_images(local: Path) -> "DatasetDict":
    """An image folder: a folder a split, or all of it one split; labels from metadata files or folder names."""
    from datasets import load_dataset

    splits = sorted(folder for folder in local.iterdir() if folder.is_dir() and folder.name in SPLIT_FOLDERS)
    # said outright: left to guess, datasets takes `bullet_train.jpg` for all there is of a split called train
    folders = {folder.name: folder for folder in splits} or {"train": local}
    return load_dataset("imagefolder", data_files={name: f"{glob.escape(str(at))}/**" for name, at in folders.items()})


def guess_splits(splits: Mapping[str, object], where: str) -> tuple[str, str]:
    """Names of the calibration and the evaluation split; one split alone is shared out half and half."""
    if not splits:
        raise InputError(f"data {where!r} holds no split")
    calibration = "train" if "train" in splits else next(iter(splits))
    for name in EVALUATION_NAMES:
        if name in splits and name != calibration:
            return calibration, name
    return f"{calibration}[:50%]", f"{calibration}[50%:]"


def split_name(split: str, splits: Mapping[str, object], where: str) -> str:
    """The split that `split` is, or is a share of; raises InputError where the data has no such split."""
    matched = SPLIT.fullmatch(split)
    if not matched:
        raise InputError(f"data split {split!r}: write a name, or a share such as train[:50%]")
    if matched["name"] not in splits:
        raise InputError(f"data {where!r} has no split {matched['name']!r}; it has: {', '.join(map(str, splits))}")
    return matched["name"]


def read_split(data: DataSettings, split: str, root: Path, seed: int = 0) -> "Dataset":
    """One split; `train[:50%]` is a share of it, taken after shuffling with `seed` so that sorted data does no harm."""
    splits = open_data(data.path, root)
    rows: Dataset = splits[split_name(split, splits, data.path)]
    matched = SPLIT.fullmatch(split)
    assert matched
    if matched["start"] is not None or matched["stop"] is not None:
        start, stop = int(matched["start"] or 0), int(matched["stop"] or 100)
        if not 0 <= start < stop <= 100:
            raise InputError(f"data split {split!r}: shares run from 0 to 100 %, the first below the second")
        rows = rows.shuffle(seed=seed).select(range(len(rows) * start // 100, len(rows) * stop // 100))
    if len(rows) == 0:
        raise InputError(f"data {data.path!r}, split {split!r}: no rows")
    return rows


def column(rows: "Dataset", role: str, columns: Mapping[str, str], where: str) -> str:
    """The name of the column that plays `role`; raises InputError when the data has no such column."""
    name = columns[role]
    if name not in rows.column_names:
        raise InputError(
            f"data {where!r} has no column {name!r} (named as `{role}` in the project); "
            f"it has: {', '.join(rows.column_names)}"
        )
    return name


def class_indices(values: list[Any], feature: object, label2id: Mapping[str, int], classes: int, where: str) -> list[int]:
    """Labels as class indices: numbers as they are, names through the model's own label2id.

    Raises InputError, naming it, for a label that the model does not know.
    """
    names = getattr(feature, "names", None)
    if names and all(name in label2id for name in names):
        values = [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
    indices = []
    for value in values:
        index = label2id.get(value) if isinstance(value, str) else value
        if isinstance(value, str) and index is None and value.isdecimal():
            index = int(value)
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < classes:
            raise InputError(
                f"data {where!r}: label {value!r} is not one of the model's {classes} classes "
                f"({', '.join(list(label2id)[:6])}{', …' if classes > 6 else ''})"
            )
        indices.append(index)
    return indices
