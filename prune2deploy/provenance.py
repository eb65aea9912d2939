"""What every output records about how it was made."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("prune2deploy", "torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, of those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_memory_gb() -> float:
    """The most memory that this process has held so far, GiB."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3)  # bytes there, KiB elsewhere
