"""Models of the hub: what can be told from the small files is told before the weights are fetched."""

from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from prune2deploy.errors import InputError, reason_of
from prune2deploy.models.configuration import load_config
from prune2deploy.models.weights import instead_of, weights_in


def fetched(name: str, first: Sequence[str], rest: Sequence[str]) -> Path:
    """The directory in the hub's cache where all files of model `name` are that match the patterns `first` and `rest`.

    Those of `first`, with config.json among them, are looked at before the others are fetched. Raises InputError where the
    hub does not give them, or where they are of no model that can be used.
    """
    directory = _snapshot(name, None, first)
    load_config(directory)
    revision = directory.name  # or the second look may see another version than the first
    if not weights_in(directory):
        files = _files(name, revision)
        if files and not any(fnmatch(file, "*.safetensors") for file in files):
            raise InputError(f"model {name!r}: the hub has no safetensors weights of it{instead_of(files)}")
    return _snapshot(name, revision, [*first, *rest])


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises many kinds; each means that the model is not to be had
        raise InputError(
            f"model {name!r}: no directory of that name here, and the hub did not give it: {reason_of(error)}"
        ) from None


def _files(name: str, revision: str) -> list[str]:
    """The names of the model's files; none where the hub cannot be asked, as what it gave may be in the cache."""
    from huggingface_hub import list_repo_files

    with suppress(Exception):  # the hub client raises many kinds
        return [file for file in list_repo_files(name, revision=revision) if "/" not in file]
    return []
