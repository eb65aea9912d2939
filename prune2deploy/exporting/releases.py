"""What the images of Triton releases carry, to say before a package is copied whether a server will load it.

From docs/introduction/compatibility.md of triton-inference-server/server at commit 0f963c9 (read on 2026-11-21). It gives
ONNX Runtime for all images of a release, but TensorRT for the one called `<release>-trtllm-python-py3` alone; that of the
others may differ.
"""

from dataclasses import dataclass

from prune2deploy.errors import InputError
from prune2deploy.runtimes.base import RuntimeInfo
from prune2deploy.validation.record import Check

OLDEST_ONNXRUNTIME = (1, 18)  # the first to read IR version 10, which we export


@dataclass(frozen=True)
class Release:
    """Versions in a Triton release. `tensorrt`: in the image for TensorRT-LLM; None where the source has none."""

    onnxruntime: str
    tensorrt: str | None


RELEASES = {
    "25.01": Release("1.20.1", "10.8.0.43"),
    "25.02": Release("1.20.1", "10.8.0.43"),
    "25.03": Release("1.21.0", "10.9.0.34"),
    "25.04": Release("1.21.0", "10.9.0.34"),
    "25.05": Release("1.22.0", "10.9.0.34"),
    "25.06": Release("1.22.0", "10.10.0.31"),
    "25.07": Release("1.22.0", "10.10.0.31"),
    "25.08": Release("1.23.0", "10.11.0.33"),
    "25.09": Release("1.23.0", "10.11.0.33"),
    "25.10": Release("1.23.1", "10.11.0.33"),
    "25.11": Release("1.23.2", "10.13.3.9"),
    "25.12": Release("1.23.2", "10.13.3.9"),
    "26.01": Release("1.23.2", "10.13.3.9"),
    "26.02": Release("1.24.1", "10.13.3.9"),
    "26.03": Release("1.24.2", "10.14.1.48"),
    "26.04": Release("1.24.4", "10.14.1.48"),
    "26.05": Release("1.24.4", "10.14.1.48"),
    "26.06": Release("1.24.4", "10.14.1.48"),
    "26.07": Release("1.27.0", "10.14.1.48"),
    "26.08": Release("1.28.0", None),
}


def release_named(name: str) -> Release:
    """The release called `name`; raises InputError, naming those that are known."""
    if name not in RELEASES:
        raise InputError(f"Triton {name} is not in our table, which has {min(RELEASES)} to {max(RELEASES)}")
    return RELEASES[name]


def server_check(name: str, runtime: RuntimeInfo, version_compatible: bool) -> Check:
    """Whether a server of release `name` loads what `runtime` made here."""
    release = release_named(name)
    if runtime.name == "onnxruntime":
        passed = numbers(release.onnxruntime) >= OLDEST_ONNXRUNTIME
        detail = f"the server has ONNX Runtime {release.onnxruntime}, latency was measured in {runtime.version}"
    elif runtime.name == "openvino":
        passed, detail = False, "which OpenVINO its images have is not known here: serve it with --serve python"
    elif release.tensorrt is None:
        passed, detail = False, "which TensorRT its images have is not known here: see NVIDIA's support matrix"
    else:
        passed = loads_plan(release.tensorrt, runtime.version, version_compatible)
        detail = f"the plan is of TensorRT {runtime.version}, the image {name}-trtllm-python-py3 has {release.tensorrt}"
        if not passed:
            detail += "; build it in a container of that release, or with version_compatible in an older one"
    return Check(name=f"Triton {name} loads it", passed=passed, detail=detail)


def loads_plan(server: str, builder: str, version_compatible: bool) -> bool:
    """A plan runs on the TensorRT that built it; a version-compatible one on later ones of the same major version, too."""
    if version_compatible:
        return numbers(server)[0] == numbers(builder)[0] and numbers(server) >= numbers(builder)
    return numbers(server)[:3] == numbers(builder)[:3]


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a dotted version."""
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())
