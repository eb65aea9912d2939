"""What a version of a repository entry says of itself: of what it is made, what was promised of it, what was measured.

`manifest.json` is that of a model; `part.json` that of the entries around it, which make text or images of its inputs and
labels of its outputs.
"""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from prune2deploy.budget import Budget
from prune2deploy.config import BackendName, Project, Target, WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import Record, pretty_json, read_record, sha256_of, write_text
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo
from prune2deploy.validation.record import Check, LossRecord, MetricRecord

MANIFEST_FILE = "manifest.json"
PART_FILE = "part.json"
REFERENCE_FILE = "reference.safetensors"
ENTRY_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
Role = Literal["preprocess", "labels", "ensemble", "chain"]  # "labels": all that makes answers of outputs
LABELLING: tuple[Role, ...] = ("preprocess", "labels", "ensemble")
# What may have had no value in a manifest of version 1: the digest was taken with a null there, and stored was nothing.
NULLS_OF_PARTS = ("restored_from",)
NULLS_OF_MODELS = (
    "restored_from", "table_sha256", "limit_ms", "device.compute_capability", "device.cuda", "device.driver",
    "target.threads", "target.triton", "target.tensorrt.workspace_gb", "workload.*.seq_len",
)


class Sealed(Record):
    """One version of an entry. `files`: SHA-256 of each of its own files; `shared`: of those that all versions share."""

    schema_version: int = Field(2, ge=1, le=2)
    name: str
    version: int = Field(ge=1)
    digest: str = Field("", description="SHA-256 of all the rest of this manifest, as it is stored")
    created_at: str
    restored_from: int | None = Field(None, description="the version that a rollback made this one of")
    files: dict[str, str]
    shared: dict[str, str]

    @field_validator("files", "shared")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} lies outside the package")
        return files


class Manifest(Sealed):
    """That of a model."""

    verdict: str
    task: str
    source: str
    source_sha256: str
    weights_sha256: str = Field(description="of the pruned PyTorch model")
    table_sha256: str | None = None
    device: DeviceInfo
    runtime: RuntimeInfo
    backend: BackendName
    target: Target = Field(description="with the number of threads that were used")
    workload: list[WorkloadPoint]
    max_batch_size: int
    method: str
    budget: Budget
    limit_ms: float | None = None
    dense_ms: float
    measured_ms: float
    speedup: float
    metric_dense: MetricRecord
    metric_pruned: MetricRecord
    lost: LossRecord | None = None
    checks: list[Check]
    tolerance: float
    wide_products: bool = Field(False, description="whether 8-bit weights are multiplied that saturate on x86 without VNNI")
    versions: dict[str, str]
    layout: Literal["triton", "sentence-transformers"] = "triton"


class PartManifest(Sealed):
    """That of an entry around `model`.

    `requirements`: what the server's python must have for it; `together`: all roles that there are around the model.
    """

    model: str
    role: Role
    requirements: list[str]
    together: list[Role] = Field(list(LABELLING), description="as older releases had them, where nothing is said")


def write_sealed(sealed: Sealed, version: Path) -> None:
    """Write `sealed` as the manifest of the directory `version`."""
    file = MANIFEST_FILE if isinstance(sealed, Manifest) else PART_FILE
    stored = sealed.model_copy(update={"schema_version": 2}).model_dump(mode="json", exclude_none=True)
    write_text(version / file, pretty_json({**stored, "digest": digest_of(stored)}) + "\n")


def digest_of(stored: dict[str, Any]) -> str:
    """What `digest` must be in a manifest of which this is stored: a field that later releases add changes nothing in it."""
    said = copy.deepcopy({key: value for key, value in stored.items() if key != "digest"})
    if said.get("schema_version") == 1:
        for path in NULLS_OF_PARTS if "role" in said else NULLS_OF_MODELS:
            _put_null(said, path.split("."))
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _put_null(said: Any, path: list[str]) -> None:
    """Set the value at `path` to null where there is none, if what holds it is there; `*`: in each item of a list."""
    first, *rest = path
    if first == "*":
        for item in said if isinstance(said, list) else []:
            _put_null(item, rest)
    elif isinstance(said, dict) and rest:
        _put_null(said.get(first), rest)
    elif isinstance(said, dict):
        said.setdefault(first, None)


def own_files(version: Path) -> dict[str, str]:
    """The hash of every file in a version directory but its manifest."""
    found = _files_below(version)
    return {name: sha256_of(version / name) for name in found if name not in (MANIFEST_FILE, PART_FILE)}


def shared_files(entry: Path) -> dict[str, str]:
    """The hash of every file of `entry` that is in no version directory."""
    found: list[str] = []
    for path in entry.iterdir():
        if path.is_dir() and not path.is_symlink():
            found += [] if path.name.isdecimal() else [f"{path.name}/{name}" for name in _files_below(path)]
        elif not path.name.isdecimal():
            found.append(path.name)
    return {name: sha256_of(entry / name) for name in sorted(found)}


def _files_below(directory: Path) -> list[str]:
    # a linked folder too: a server would follow it
    files = [file.relative_to(directory) for file in directory.rglob("*") if file.is_file() or file.is_symlink()]
    # a server that may write into its repository leaves its compiled python there
    return sorted(file.as_posix() for file in files if "__pycache__" not in file.parts)


def read_sealed(version: Path) -> Manifest | PartManifest:
    """What a version directory says of itself; raises InputError where it is none of ours."""
    if (file := _manifest_in(version)) == MANIFEST_FILE:
        return read_record(version / file, Manifest, "manifest", "export the model again")
    return read_record(version / file, PartManifest, "manifest", "export the model again")


def _manifest_in(version: Path) -> str:
    """The name of the manifest in a version directory; raises InputError where there is none."""
    for file in (MANIFEST_FILE, PART_FILE):
        if (version / file).is_file():
            return file
    raise InputError(f"{version}: no {MANIFEST_FILE} here, so this is not a package of prune2deploy")


def read_manifest(version: Path) -> Manifest:
    """That of a model; raises InputError where the version directory holds none."""
    found = read_sealed(version)
    if not isinstance(found, Manifest):
        raise InputError(f"{version.parent} is the {found.role} step of {found.model!r}; name that model's entry")
    return found


def seal_problems(entry: Path, version: str) -> list[str]:
    """How the files of a version, and those it shares, differ from what its manifest says; raises InputError."""
    sealed = read_sealed(entry / version)
    problems = [f"version {version} is a link"] if (entry / version).is_symlink() else []
    stored = json.loads((entry / version / _manifest_in(entry / version)).read_text(encoding="utf-8"))
    if sealed.digest != digest_of(stored):
        problems.append(f"the manifest of version {version} was changed")
    if str(sealed.version) != version:
        problems.append(f"version {version} was made as version {sealed.version}")
    try:
        pairs = ((f"{version}/", sealed.files, own_files(entry / version)), ("", sealed.shared, shared_files(entry)))
    except FileNotFoundError as gone:
        raise InputError(f"{entry}: {gone.filename} was taken away while version {version} was read; try again") from None
    for prefix, said, found in pairs:
        problems += [f"{prefix}{name} is missing" for name in said if name not in found]
        problems += [f"{prefix}{name} was changed" for name in said if name in found and found[name] != said[name]]
        problems += [f"{prefix}{name} was added" for name in found if name not in said]
    return problems


def folder_problems(folder: Path) -> list[str]:
    """As `seal_problems`, of a package that is a folder of its own, and no version of an entry."""
    sealed = read_sealed(folder)
    stored = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    problems = ["the manifest was changed"] if sealed.digest != digest_of(stored) else []
    said, found = sealed.files, own_files(folder)
    problems += [f"{name} is missing" for name in said if name not in found]
    problems += [f"{name} was changed" for name in said if name in found and found[name] != said[name]]
    return problems + [f"{name} was added" for name in found if name not in said]


def is_folder(package: Path) -> bool:
    """Whether `package` is a folder of its own, and no entry of a model repository or a version of one."""
    return (package / MANIFEST_FILE).is_file() and read_manifest(package).layout != "triton"


def entry_name(name: str | None, project: Project) -> str:
    """The name of an entry: `name`, or else the model's; raises InputError where a repository cannot have it."""
    if name is None:
        local = project.resolve(project.model)
        model = (local.resolve() if local.is_dir() else Path(project.model)).name
        name = re.sub(r"[^\w.-]+", "_", model, flags=re.ASCII).strip("._-")
        if not name:
            raise InputError(f"the model's directory {model!r} makes no name for an entry: give one with --name")
    if not ENTRY_NAME.fullmatch(name):
        raise InputError(f"--name {name!r}: use letters, digits, '_', '-' and '.', the first a letter or digit")
    return name
