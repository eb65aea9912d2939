"""What every output records about how it was made, and the keys under which what is made is kept."""

import hashlib
import platform
import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMPUTED = ("prune2deploy", "torch", "transformers")  # what numbers are made by
EXPORTED = (*COMPUTED, "onnx", "onnxscript")  # what graphs are made by
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
PACKAGES = (*EXPORTED, *ONNX_RUNTIMES, "openvino", "tensorrt", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, of those that are installed."""
    return {"python": platform.python_version(), **installed(PACKAGES)}


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of `packages` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cache_key(packages: Iterable[str], *parts: object) -> str:
    """The name of something that depends on `parts` and was made by `packages`; after an upgrade of one it is another."""
    said = [*(str(part) for part in parts), *(f"{package} {number}" for package, number in installed(packages).items())]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]


def remove_stale(directory: Path, pattern: str, current: Path) -> None:
    """Remove what matches `pattern` in `directory` and is not `current` or beside it: what was kept under other keys."""
    for path in [each for each in directory.glob(pattern) if not each.name.startswith(current.name)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def peak_memory_gb() -> float:
    """The most memory that this process has held so far, GiB."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3)  # bytes there, KiB elsewhere
