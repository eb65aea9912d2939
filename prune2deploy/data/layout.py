"""Which files of a local data set are data, and which split each belongs to: paths alone, nothing is parsed.

The names of splits are those of files or of folders; what they mean follows the rules that the hub documents
(huggingface.co/docs/hub/datasets-file-names-and-splits).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prune2deploy.data.split_names import kind_of
from prune2deploy.errors import InputError

READERS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4")
SAVED, IMAGES = "saved", "images"  # what is not read file by file: what `save_to_disk` wrote, an image folder
METADATA = "metadata"  # the stem of a file that says what is in images
BOOKKEEPING = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
DOCUMENTS = re.compile(
    r"(readme|licen[cs]e|notice|citation|changelog|authors|copying)([-_. ].*)?|thumbs\.db|desktop\.ini|"
    r".*\.(md|rst|html|pdf|bib|cff|py|ipynb|toml|ya?ml|lock)",
    re.IGNORECASE,
)
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?:-[0-9a-f]+)?")
POINTER = b"version https://git-lfs"
KNOWN = ", ".join(sorted(READERS))


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
        _check_file(local)
        return Layout(str(reader_of(local)), local.parent, {"train": [local]})
    if _is_saved(local):
        return Layout(SAVED, local)
    found = [path for path in _entries(local) if _is_data(path)]
    if found and not (_describes_images(found) and _holds_images(local)):
        return _layout_of_files(local, found, _rest(local))
    nested = [path for path in walk(local) if _is_data(path)]
    if found or not nested or _describes_images(nested):
        return Layout(IMAGES, local)
    folders = {folder for path in nested for folder in path.parents if folder == local or local in folder.parents}
    return _layout_of_files(local, nested, [name for folder in sorted(folders) for name in _strangers(folder, local)])


def _is_saved(folder: Path) -> bool:
    """Whether datasets' `save_to_disk` wrote `folder`."""
    single = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return single or (folder / "dataset_dict.json").is_file()


def walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder` that is not hidden, in the order of their names."""
    for place, files in walk_folders(folder):
        yield from (Path(place, name) for name in sorted(files, key=natural) if not _hidden(name))


def walk_folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """`folder` and every folder below that is not hidden, with its files; links are followed, to each place once."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not _hidden(name)) if real not in seen else []
        if real not in seen:
            yield place, files
        seen.add(real)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `part2` before `part10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def image_suffixes() -> frozenset[str]:
    """The suffixes of what Pillow opens, in lower case."""
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


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


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _entries(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not _hidden(path.name)), key=lambda path: natural(path.name))


def _is_data(path: Path) -> bool:
    return reader_of(path) is not None and not is_document(path) and not path.is_dir()


def _describes_images(files: list[Path]) -> bool:
    return any(uncompressed_name(path).stem.lower() == METADATA for path in files)


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in image_suffixes() for path in walk(folder))


def _strangers(folder: Path, root: Path) -> list[str]:
    """Files of `folder` that nothing here reads, as seen from `root`; images are not named: data may speak of them."""
    known = image_suffixes()
    return [
        str(path.relative_to(root)) for path in _entries(folder)
        if not (path.is_dir() or _is_data(path) or is_document(path) or path.suffix.lower() in known)
    ]  # fmt: skip


def _rest(root: Path) -> list[str]:
    """What is not read where `root` has data files of its own: strangers, and data files in folders."""
    names = _strangers(root, root)
    for folder in _entries(root):
        if folder.is_dir() and (count := sum(_is_data(path) for path in walk(folder))):
            names.append(f"{folder.name}/ ({count} data file{'s' if count > 1 else ''})")
    return names


def _layout_of_files(root: Path, files: list[Path], left_out: list[str]) -> Layout:
    for path in files:
        _check_file(path)
    kinds = {str(reader_of(path)) for path in files}
    if len(kinds) > 1:
        raise InputError(f"{root}: holds files of several kinds ({', '.join(sorted(kinds))}); keep one, or name one file")
    homes = _split_folders(root, files)
    splits: dict[str, list[Path]] = {}
    for path in files:
        home = next((folder for folder in path.parents if folder in homes), None)
        splits.setdefault(split_name_of(home.name if home else _stem(path)), []).append(path)
    for name, parts in splits.items():
        _check_one_set(root, parts, homes)
        _check_parts(name, parts, homes)
    return Layout(kinds.pop(), root, splits, left_out)


def _split_folders(root: Path, files: list[Path]) -> set[Path]:
    """The outermost folders below `root` that are splits: their names say so, and no file in them says otherwise."""
    said: dict[Path, set[str | None]] = {}
    for path in files:
        for folder in path.parents:
            if folder == root:
                break
            said.setdefault(folder, set()).add(kind_of(_stem(path)))
    named = {folder for folder, kinds in said.items() if kind_of(folder.name) and kinds <= {None, kind_of(folder.name)}}
    return {folder for folder in named if named.isdisjoint(folder.parents)}


def _stem(path: Path) -> str:
    """The name of `path` without its suffixes and the number of a shard."""
    stem = uncompressed_name(path).stem
    shard = SHARD.fullmatch(stem)
    return shard["stem"] if shard else stem


def split_name_of(name: str) -> str:
    """`name` as it can be written in a project file: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]", "_", name)


def _check_one_set(root: Path, parts: list[Path], homes: set[Path]) -> None:
    """Raise InputError where the files of a split lie in several folders, each of which is a data set of its own."""
    around = (next((folder.parent for folder in path.parents if folder in homes), path.parent) for path in parts)
    folders = list(dict.fromkeys(str(folder.relative_to(root)) for folder in around))
    if len(folders) > 1:
        raise InputError(f"{root}: holds several data sets ({', '.join(folders)}); name the folder of one")


def _check_parts(name: str, parts: list[Path], homes: set[Path]) -> None:
    """Raise InputError where a shard is missing, or two files claim to be the same part of a split."""
    groups: dict[Path, list[Path]] = {}
    for path in parts:
        groups.setdefault(path.with_name(_stem(path)), []).append(path)
    whole = [group[0] for group in groups.values()]
    if len(whole) > 1 and homes.isdisjoint(whole[0].parents):
        raise InputError(f"{whole[0].parent}: {whole[0].name} and {whole[1].name} are both split {name!r}; rename one")
    for group in groups.values():
        shards = [SHARD.fullmatch(uncompressed_name(path).stem) for path in group]
        numbered = {int(shard["number"]): path for shard, path in zip(shards, group, strict=True) if shard}
        if len(numbered) < len(group) and len(group) > 1:
            raise InputError(f"{group[0].parent}: {group[0].name} and {group[1].name} are both split {name!r}; keep one")
        count = max((int(shard["count"]) for shard in shards if shard), default=0)
        if missing := [number for number in range(count) if number not in numbered]:
            file = re.sub(r"-\d{5,}-of-", f"-{missing[0]:05}-of-", group[0].name)
            raise InputError(f"{group[0].with_name(file)}: this shard of split {name!r} is missing; download the data again")


def _check_file(path: Path) -> None:
    """Raise InputError where `path` is a link to nothing, a placeholder or empty."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: links to {path.readlink()}, which is not there; download the data again, or remove it")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: the file is empty")
    if size < 1024:
        with path.open("rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                raise InputError(f"{path}: a pointer of git-lfs in place of the data; run `git lfs pull` in its folder")
