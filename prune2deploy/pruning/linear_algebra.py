"""Inverses and solutions in float64, on the device that a matrix is on.

On a CPU they are found in the matrix's own memory: at 3,072 squared, another one has 75 MB.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def inverse_(matrix: "torch.Tensor") -> "torch.Tensor":
    """The inverse of a symmetric matrix, [k, k], which is spoilt."""
    import torch

    if matrix.device.type != "cpu":
        return torch.linalg.inv(matrix)
    from scipy.linalg import LinAlgError, lapack

    # `scipy.linalg.inv` of SciPy 1.17 crashes where the matrix is indefinite and may be overwritten
    factors, pivots, singular = lapack.dgetrf(matrix.numpy().T, overwrite_a=True)  # Fortran's order, so no copy is made
    if singular:
        raise LinAlgError("the matrix is singular")
    room = math.ceil(lapack.dgetri_lwork(len(factors))[0])
    return torch.from_numpy(lapack.dgetri(factors, pivots, lwork=room, overwrite_lu=True)[0].T)


def solve_(matrix: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
    """X, [k, d], with `matrix` X = `right`; `matrix` is symmetric, [k, k], and is spoilt."""
    import torch

    if matrix.device.type != "cpu":
        return torch.linalg.solve(matrix, right)
    from scipy.linalg import solve

    return torch.from_numpy(solve(matrix.numpy().T, right.numpy(), assume_a="sym", overwrite_a=True))
