"""What the card of a data set, its README.md, says of files and splits.

The hub calls it manual configuration (huggingface.co/docs/hub/datasets-manual-configuration): `configs` in the front matter
name the files of each split, and where they do, names of files and folders mean nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from prune2deploy.data.file_kinds import is_data
from prune2deploy.data.split_names import split_name_of
from prune2deploy.data.walking import walk
from prune2deploy.errors import InputError

CARD, SETTINGS = "README.md", ".huggingface.yaml"  # the second holds what else is the front matter of the first
FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
KNOWN = {"config_name", "data_files", "data_dir", "default", "description", "dataset_info", "features"}
WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Configured:
    """The one configuration that the card at `where` describes: the `folder` of the data, and where said, all files."""

    where: Path
    files: dict[str, list[Path]] | None
    folder: Path


def configured(root: Path) -> Configured | None:
    """What the card at `root` says; None where it says nothing. Raises InputError where it cannot be followed."""
    for name in (SETTINGS, CARD):
        if (root / name).is_file() and (configs := _said(root / name).get("configs")):
            return _one(root, root / name, configs)
    return None


def _said(card: Path) -> dict[str, Any]:
    """The settings of a card."""
    text = card.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    front = FRONT.match(text)
    if card.name == CARD and not front:
        return {}
    try:
        said = yaml.safe_load(front[1] if front else text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + (2 if front else 1)}" if mark else ""
        raise InputError(f"{card}{line}: the settings between --- cannot be read as YAML; mend or remove them") from None
    return said if isinstance(said, dict) else {}


def _one(root: Path, card: Path, configs: Any) -> Configured | None:
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise InputError(f"{card}: `configs` is no list of configurations; mend or remove it")
    if len(configs) > 1:
        names = ", ".join(str(config.get("config_name", "default")) for config in configs)
        raise InputError(f"{card}: describes several configurations ({names}); name the files or the folder of one")
    (config,) = configs
    if strange := sorted(set(map(str, config)) - KNOWN):
        raise InputError(f"{card}: `configs` sets {strange[0]!r}, which is not followed here; name the data files instead")
    folder = _inside(root, str(config.get("data_dir") or "."), card)
    if not config.get("data_files"):
        return None if folder == root else Configured(card, None, folder)
    patterns = _patterns(config["data_files"], card)
    files = {name: _files(folder, each, card) for name, each in patterns.items()}
    return Configured(card, files, folder)


def _inside(root: Path, name: str, card: Path) -> Path:
    folder = root / name if name.strip("./") else root
    if not folder.is_dir():
        raise InputError(f"{card}: `data_dir` is {name!r}, which is no folder here; download the data again")
    return folder


def _patterns(said: Any, card: Path) -> dict[str, list[str]]:
    """The paths of each split: `said` is one of them, several, or a list of splits with theirs."""
    items = said if isinstance(said, list) else [said]
    if isinstance(said, dict) and "path" not in said:
        items = [{"split": split, "path": path} for split, path in said.items()]
    found: dict[str, list[str]] = {}
    for item in items:
        split, path = (item.get("split", "train"), item.get("path")) if isinstance(item, dict) else ("train", item)
        paths = [each for each in (path if isinstance(path, list) else [path]) if isinstance(each, str)]
        if not paths or (isinstance(path, list) and len(paths) < len(path)):
            raise InputError(f"{card}: `data_files` names no path for split {str(split)!r}; mend it, or name the data files")
        found.setdefault(split_name_of(str(split)), []).extend(paths)
    return found


def _files(folder: Path, patterns: list[str], card: Path) -> list[Path]:
    """The data files that `patterns` name, in order: literally where there is such a file, or else by wildcards."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        if (folder / pattern).is_file():
            found = [folder / pattern]
        else:
            wanted = _expression(pattern.removeprefix("./"))
            found = [path for path in walk(folder) if wanted.fullmatch(path.relative_to(folder).as_posix())]
            found = [path for path in found if is_data(path)] or found
        if not found:
            raise InputError(f"{card}: `data_files` names {pattern!r}, which is not there; download the data again")
        if strange := next((path for path in found if not is_data(path)), None):
            raise InputError(
                f"{card}: `data_files` names {strange.relative_to(folder)}, which cannot be read as rows; write the rows as "
                "jsonl, or remove `configs` there"
            )
        files.update(dict.fromkeys(found))
    return list(files)


def _expression(pattern: str) -> re.Pattern[str]:
    """`pattern`, with the wildcards of the hub, as a regular expression."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return re.compile("".join(
        WILDCARDS.get(part) or (part.replace("[!", "[^", 1) if number % 2 else re.escape(part))
        for number, part in enumerate(parts)
    ))  # fmt: skip
