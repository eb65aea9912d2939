"""From a target to its runtime."""

from pathlib import Path

from prune2deploy.config import Target
from prune2deploy.runtimes.base import Runtime, Shapes


def runtime_for(target: Target, shapes: Shapes | None = None, cache: Path = Path(".prune2deploy")) -> Runtime:
    """The runtime that `target` names, ready on this machine; raises InputError where this machine cannot be it.

    `shapes` is for runtimes that build engines for some shapes only; without it they load what was built. `cache`: a
    folder for what takes long to build.
    """
    if target.runtime == "tensorrt":
        from prune2deploy.runtimes.trt import TensorRt

        return TensorRt(target, shapes, cache / "tensorrt")
    if target.runtime == "openvino":
        from prune2deploy.runtimes.openvino import OpenVino

        return OpenVino(target)
    from prune2deploy.runtimes.ort import OnnxRuntime

    return OnnxRuntime(target)
