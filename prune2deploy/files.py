"""Reading and writing files so that nothing half-written is ever seen and nothing foreign is ever trusted."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from prune2deploy.errors import InputError

if TYPE_CHECKING:
    import numpy as np

LFS_POINTER = b"version https://git-lfs"
ModelT = TypeVar("ModelT", bound=BaseModel)


class Record(BaseModel):
    """Base of everything we store as JSON: unknown keys are refused, values are validated, NaN is no number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


def read_record(path: Path, record: type[ModelT], what: str, remedy: str) -> ModelT:
    """Parse the JSON file at `path`; raises InputError with the first thing that is wrong with it, and the remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this {what} cannot be read: {error}; {remedy}") from None
    try:
        return record.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: not a valid {what}: {first_problem(error)}; {remedy}") from None


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, on one line."""
    # a misspelt key tells more than the one that it leaves missing
    problem = next((each for each in error.errors() if each["type"] == "extra_forbidden"), error.errors()[0])
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        share(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def share(path: Path) -> None:
    """Give `path` the mode of any new file: safetensors and others write files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step: readers see the old file or the new one, never a part."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_record(path: Path, record: BaseModel) -> None:
    """Write `record` as JSON that a person can read and diff."""
    write_text(path, pretty_json(record.model_dump(mode="json", exclude_none=True)) + "\n")


def write_arrays(path: Path, arrays: "dict[str, np.ndarray]") -> None:
    """Write `arrays` as safetensors in one step."""
    import numpy as np
    from safetensors.numpy import save_file

    # safetensors writes memory as it lies, whatever the strides say
    straight = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as partial:
        save_file(straight, partial)


def read_arrays(path: Path) -> "dict[str, np.ndarray]":
    """The arrays of the safetensors file at `path`; raises InputError where it is damaged or missing."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged: {error}") from None


def pretty_json(value: object, indent: int = 0) -> str:
    """JSON with one key a line, but lists of plain values kept on a line, so that tables stay readable."""
    pad = "  " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(key)}: {pretty_json(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * indent + "}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        rows = [pad + pretty_json(item, indent + 1) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + "  " * indent + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def refuse_missing(path: Path) -> None:
    """Raise InputError where `path`, which a directory lists, is no file with content: a link to nothing, a placeholder."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: links to {path.readlink()}, which is not there; download it again")
    if path.is_dir():
        raise InputError(f"{path}: is a directory, where a file should be")
    with path.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"{path}: a pointer of git-lfs in place of the file; run `git lfs pull` in its folder")


def seen_from(root: Path, path: str | Path) -> Path:
    """`path` as seen from `root`; what begins with `~` is in a home, where there is that home."""
    text = str(path)
    try:
        return root / (Path(text).expanduser() if text.startswith("~") else text)
    except RuntimeError:  # nobody is called so
        return root / text


def refuse_existing(target: Path) -> None:
    """Raise InputError where `target` exists: what stands there may be somebody's work."""
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} already exists: remove it, or name another place with --out")
    refuse_blocked(target)


def refuse_blocked(target: Path) -> None:
    """Raise InputError where `target` cannot be made: a file is in the way, or the place is not ours to write to."""
    path = target.absolute()
    blocking = next(each for each in (path, *path.parents) if each.exists())
    if not blocking.is_dir():
        raise InputError(f"{target}: {blocking} is a file, not a directory to write into; name another place with --out")
    if not os.access(blocking, os.W_OK | os.X_OK):
        raise InputError(f"{target}: {blocking} cannot be written to; name another place with --out")


@contextmanager
def made_directory(path: Path) -> Iterator[None]:
    """Make the absolute `path` and what is missing above it; what is empty of that at the end is removed again."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):  # it is not empty, or another process has taken it away
                each.rmdir()


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Make `folder`, empty, to make something in; it vanishes with what is left in it. A killed process may have left one.

    Raises InputError where something else is there, or where the folder is taken away while it is in use.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise InputError(f"{folder}: in the way of what is to be made there, and could not be cleared; remove it") from None
    try:
        yield
    except Exception:
        if folder.is_dir():
            raise
        raise InputError(f"{folder} was removed while something was being made in it; run this again") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `target` when the block ends well and vanishes when it does not.

    Raises InputError where `target` already exists.
    """
    refuse_existing(target)
    partial = target.with_name(f".{target.name}.partial")
    with made_directory(target.absolute().parent), scratch(partial):
        yield partial
        refuse_existing(target)  # another process may have made it meanwhile
        partial.rename(target)


def sha256_of(path: Path) -> str:
    """Hash of one file, or of a directory's file names and contents."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
