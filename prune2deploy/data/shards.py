"""Files that are numbered parts of one split, `train-00000-of-00002.parquet`: all of them have to be there, of one set."""

import re
from collections.abc import Sequence
from pathlib import Path

from prune2deploy.data.file_kinds import uncompressed_name
from prune2deploy.errors import InputError

SHARD = re.compile(r"(?P<stem>.+)[-.](?P<number>[0-9]+)-of-(?P<count>[0-9]+)(?:-[0-9a-f]+)?")
Shard = tuple[int, int]  # its number, and how many there are


def stem_of(path: Path) -> str:
    """The name of `path` without its suffixes and the number of a shard."""
    stem = uncompressed_name(path).stem
    shard = SHARD.fullmatch(stem)
    return shard["stem"] if shard else stem


def _shard_of(path: Path) -> Shard | None:
    found = SHARD.fullmatch(uncompressed_name(path).stem)
    return (int(found["number"]), int(found["count"])) if found else None


def check_parts(name: str, parts: Sequence[Path], folders: bool) -> None:
    """Raise InputError where a shard of split `name` is missing, or two files claim to be the same part of it.

    `folders`: a folder is the split, so that it may hold files of several names.
    """
    groups: dict[Path, list[Path]] = {}
    for path in parts:
        groups.setdefault(path.with_name(stem_of(path)), []).append(path)
    whole = [group[0] for group in groups.values()]
    if len(whole) > 1 and not folders:
        raise InputError(f"{whole[0].parent}: {whole[0].name} and {whole[1].name} are both split {name!r}; rename one")
    for group in groups.values():
        _check_shards(name, group)


def _check_shards(name: str, group: Sequence[Path]) -> None:
    """Raise InputError unless `group`, files of one name, is one file or a complete set of shards."""
    shards = {path: shard for path in group if (shard := _shard_of(path))}
    by_count = {count: path for path, (_, count) in shards.items()}
    if len(by_count) > 1:
        (fewer, one), (more, other) = sorted(by_count.items())[:2]
        raise InputError(
            f"{one.parent}: {one.name} is one of {fewer} shards of split {name!r}, and {other.name} one of {more}; "
            "keep the shards of one set"
        )
    numbered = {number: path for path, (number, _) in shards.items()}
    if len(numbered) < len(group) and len(group) > 1:
        raise InputError(f"{group[0].parent}: {group[0].name} and {group[1].name} are both split {name!r}; keep one")
    if not shards:
        return
    (count,) = by_count
    first = 1 if count in numbered and 0 not in numbered else 0  # some people count from 1
    if missing := [number for number in range(first, first + count) if number not in numbered]:
        file = re.sub(r"([-.])([0-9]+)-of-", lambda found: f"{found[1]}{missing[0]:0{len(found[2])}}-of-", group[0].name)
        raise InputError(f"{group[0].with_name(file)}: this shard of split {name!r} is missing; download the data again")
    if strange := [path for number, path in numbered.items() if not first <= number < first + count]:
        raise InputError(f"{strange[0]}: one shard more of split {name!r} than its name says; keep the shards of one set")
