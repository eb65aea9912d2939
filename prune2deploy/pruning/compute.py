"""Where pruning computes: statistics, re-fit and reconstruction."""

import os
from typing import TYPE_CHECKING, Literal

from prune2deploy.errors import InputError
from prune2deploy.pruning.methods.method import Method

if TYPE_CHECKING:
    import torch


def compute_device(wanted: Literal["cpu", "gpu"], method: type[Method]) -> "torch.device":
    """The device for `method`; raises InputError where it cannot have the one that is `wanted`.

    On a GPU, deterministic kernels are asked for, so that a plan can be had again.
    """
    import torch

    if wanted == "cpu":
        return torch.device("cpu")
    if not method.on_gpu:
        raise InputError(f'calibration.device = "gpu": {method.name} computes on a CPU only; set it to "cpu"')
    if not torch.cuda.is_available():
        raise InputError('calibration.device = "gpu": PyTorch finds no GPU; install a CUDA build of it, or set "cpu"')
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; without it results may vary
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda", torch.cuda.current_device())
