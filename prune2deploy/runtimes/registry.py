"""From a target to its runtime."""

from prune2deploy.config import Target
from prune2deploy.runtimes.base import Runtime
from prune2deploy.runtimes.ort import OnnxRuntime

RUNTIMES: dict[str, type[OnnxRuntime]] = {"onnxruntime": OnnxRuntime}


def runtime_for(target: Target) -> Runtime:
    """The runtime that `target` names, ready on this machine; raises InputError where this machine cannot be it."""
    return RUNTIMES[target.runtime](target)
