"""`manifest.json`: what a package is made of, what was promised of it and what was measured."""

import re
from pathlib import Path

from pydantic import Field, field_validator

from prune2deploy.budget import Budget
from prune2deploy.config import Project, Target, WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import Record, read_record, sha256_of
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo
from prune2deploy.validation.record import Check, MetricRecord

MANIFEST_FILE = "manifest.json"
REFERENCE_FILE = "reference.safetensors"


class Manifest(Record):
    """The package's own description; `files` maps every other file to its SHA-256."""

    schema_version: int = Field(1, ge=1, le=1)
    name: str
    created_at: str
    verdict: str
    task: str
    source: str
    source_sha256: str
    weights_sha256: str = Field(description="of the pruned PyTorch model")
    table_sha256: str | None = None
    device: DeviceInfo
    runtime: RuntimeInfo
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
    checks: list[Check]
    tolerance: float
    versions: dict[str, str]
    files: dict[str, str]

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} lies outside the package")
        return files


def files_of(package: Path) -> dict[str, str]:
    """The hash of every file of `package` but the manifest."""
    # a linked folder too: a server would follow it
    found = sorted(file for file in package.rglob("*") if file.is_file() or file.is_symlink())
    names = [file.relative_to(package).as_posix() for file in found]
    return {name: sha256_of(package / name) for name in names if name != MANIFEST_FILE}


def entry_name(name: str | None, project: Project) -> str:
    """The name of an entry: `name`, or else the model's; raises InputError where a repository cannot have it."""
    if name is None:
        local = project.resolve(project.model)
        name = re.sub(r"[^\w.-]+", "_", (local.resolve() if local.is_dir() else Path(project.model)).name).strip("._-")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise InputError(f"--name {name!r}: use letters, digits, '_', '-' and '.', the first a letter or digit")
    return name


def read_manifest(package: Path) -> Manifest:
    """The manifest of `package`; raises InputError when it is no package."""
    if not package.is_dir():
        raise InputError(f"{package}: no such package; make one with `prune2deploy export`")
    if not (package / MANIFEST_FILE).is_file():
        raise InputError(f"{package}: no {MANIFEST_FILE} here, so this is not a package of prune2deploy")
    return read_record(package / MANIFEST_FILE, Manifest, "manifest")
