"""Which files of a local data set are data, and which split each belongs to.

The names of splits are those of files or of folders; what they mean follows the rules that the hub documents
(huggingface.co/docs/hub/datasets-file-names-and-splits), unless the card of the data set says which files are which.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from prune2deploy.data.card import Configured, configured
from prune2deploy.data.file_kinds import KNOWN, check_file, is_data, is_document, is_image, reader_of
from prune2deploy.data.shards import check_parts, stem_of
from prune2deploy.data.side_files import describes_images, is_beside_images, without_side_files
from prune2deploy.data.split_names import SPLIT_FOLDERS, kind_of, split_name_of
from prune2deploy.data.walking import entries_of, walk
from prune2deploy.errors import InputError

SAVED, IMAGES = "saved", "images"  # what is not read file by file: what `save_to_disk` wrote, an image folder


@dataclass
class Layout:
    """Where the data is: `files` of each split, in the order of their rows, and how they are read.

    `folder` is where the files lie; `left_out` names what lies there as well, is no documentation, and is not read.
    """

    reader: str
    folder: Path
    files: dict[str, list[Path]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def layout_of(local: Path) -> Layout:
    """The layout of a file or directory; raises InputError where it cannot be told, or a file is not there as named."""
    if not local.is_dir():
        if reader_of(local) is None:
            raise InputError(f"{local}: unknown kind of data file; known are {KNOWN}")
        check_file(local)
        return Layout(str(reader_of(local)), local.parent, {"train": [local]})
    if _is_saved(local):
        return Layout(SAVED, local, left_out=_beside_saved(local))
    if said := configured(local):
        return _layout_as_said(local, said)
    return _layout_by_names(local)


def _layout_by_names(local: Path) -> Layout:
    here = [path for path in entries_of(local) if is_data(path)]
    found = here or [path for path in walk(local) if is_data(path)]
    if not found or (describes_images(found) and (not here or _holds_images(local))) or is_beside_images(local, found):
        return Layout(IMAGES, local)
    rows = without_side_files(found)
    beside = set(found) - set(rows)
    if here:
        left_out = _rest(local)
    else:
        folders = {folder for path in found for folder in path.parents if folder == local or local in folder.parents}
        left_out = [name for folder in sorted(folders) for name in _strangers(folder, local)]
    left_out += [str(path.relative_to(local)) for path in found if path in beside]
    return _layout_of_files(local, rows, left_out)


def _layout_as_said(local: Path, said: Configured) -> Layout:
    """The layout that the card of `local` describes."""
    if said.files is None:
        return _layout_by_names(said.folder)
    for name, files in said.files.items():
        for path in files:
            check_file(path)
        check_parts(name, files, folders=True)
    reader = _one_kind(local, [path for files in said.files.values() for path in files])
    taken = {path for files in said.files.values() for path in files}
    others = [path.relative_to(local) for path in walk(local) if is_data(path) and path not in taken]
    return Layout(reader, local, said.files, [f"{path}: not named in {said.where.name}" for path in others])


def _is_saved(folder: Path) -> bool:
    """Whether datasets' `save_to_disk` wrote `folder`."""
    single = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return single or (folder / "dataset_dict.json").is_file()


def _beside_saved(folder: Path) -> list[str]:
    """What lies in a folder that `save_to_disk` wrote and is not of it."""
    index = folder / "dataset_dict.json"
    try:
        splits = set(map(str, json.loads(index.read_bytes())["splits"])) if index.is_file() else set()
    except (ValueError, KeyError, TypeError):
        return []  # which its reader will say
    known = [path for path in entries_of(folder) if path.name in splits or is_document(path) or path.suffix == ".arrow"]
    return [path.name + "/" * path.is_dir() for path in entries_of(folder) if path not in known]


def _holds_images(folder: Path) -> bool:
    return any(map(is_image, walk(folder)))


def _strangers(folder: Path, root: Path) -> list[str]:
    """Files of `folder` that nothing here reads, as seen from `root`; images are not named: data may speak of them."""
    return [
        str(path.relative_to(root)) for path in entries_of(folder)
        if not (path.is_dir() or is_data(path) or is_document(path) or is_image(path))
    ]  # fmt: skip


def _rest(root: Path) -> list[str]:
    """What is not read where `root` has data files of its own: strangers, and data files in folders."""
    names = _strangers(root, root)
    for folder in entries_of(root):
        if folder.is_dir() and (count := sum(is_data(path) for path in walk(folder))):
            names.append(f"{folder.name}/ ({count} data file{'s' if count > 1 else ''})")
    return names


def _layout_of_files(root: Path, files: list[Path], left_out: list[str]) -> Layout:
    for path in files:
        check_file(path)
    reader = _one_kind(root, files)
    _check_no_partition(root, files)
    homes = _split_folders(root, files)
    _check_one_set(root, files, homes)
    splits: dict[str, list[Path]] = {}
    for path in files:
        home = next((folder for folder in path.parents if folder in homes), None)
        splits.setdefault(split_name_of(home.name if home else stem_of(path)), []).append(path)
    for name, parts in splits.items():
        check_parts(name, parts, folders=not homes.isdisjoint(parts[0].parents))
    return Layout(reader, root, splits, left_out)


def _one_kind(root: Path, files: list[Path]) -> str:
    kinds = {str(reader_of(path)) for path in files}
    if len(kinds) > 1:
        raise InputError(f"{root}: holds files of several kinds ({', '.join(sorted(kinds))}); keep one, or name one file")
    return kinds.pop()


def _check_no_partition(root: Path, files: list[Path]) -> None:
    """Raise InputError where folders hold what belongs into the rows, as `label=pos/part-0.parquet` does."""
    for path in files:
        if folder := next((part for part in path.relative_to(root).parts[:-1] if "=" in part), None):
            raise InputError(
                f"{root}: the folder {folder} stands for a column, as partitioned data sets have it, which is not read; "
                "write the rows without partition_cols, one file a split"
            )


def _split_folders(root: Path, files: list[Path]) -> set[Path]:
    """The outermost folders below `root` that are splits: their names say so, and no file in them says otherwise."""
    said: dict[Path, set[str | None]] = {}
    for path in files:
        for folder in path.parents:
            if folder == root:
                break
            said.setdefault(folder, set()).add(kind_of(stem_of(path)))
    named = {folder for folder, kinds in said.items() if kind_of(folder.name) and kinds <= {None, kind_of(folder.name)}}
    return {folder for folder in named if named.isdisjoint(folder.parents)}


def _check_one_set(root: Path, files: list[Path], homes: set[Path]) -> None:
    """Raise InputError where files and folders of splits lie in several folders, each of which is a data set of its own."""
    around = {_around(path, root, homes) for path in files}
    if len(around) > 1:
        folders = sorted("files outside of them" if folder == root else str(folder.relative_to(root)) for folder in around)
        raise InputError(f"{root}: holds several data sets ({', '.join(folders[:6])}); name the folder of one")


def _around(path: Path, root: Path, homes: set[Path]) -> Path:
    """The folder of the data set that `path` is of: what is around its split."""
    folder = next((folder.parent for folder in path.parents if folder in homes), path.parent)
    while folder != root and folder.name.lower() in SPLIT_FOLDERS:  # a split's folder with files of others as well
        folder = folder.parent
    return folder
