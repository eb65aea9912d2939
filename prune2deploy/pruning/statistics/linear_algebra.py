"""Sums of products, inverses and solutions, on the device that a matrix is on.

On a CPU inverses and solutions, in float64, are found in the matrix's own memory: at 3,072 squared, another one has 75 MB.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


STRIPE = 384  # rows of a symmetric product that are found at once: those of a narrower one are too slow


def add_square_(total: "torch.Tensor", x: "torch.Tensor") -> None:
    """Add xᵀ x to `total`, [k, k], above the diagonal; what is below it means nothing until `mirror_`. x: [n, k]."""
    for start in range(0, len(total), STRIPE):
        total[start : start + STRIPE, start:].addmm_(x[:, start : start + STRIPE].T, x[:, start:])


def mirror_(total: "torch.Tensor") -> None:
    """Make `total`, to which `add_square_` has added, the symmetric matrix that it stands for."""
    for start in range(0, len(total), STRIPE):
        stop = start + STRIPE
        total[stop:, start:stop] = total[start:stop, stop:].T
        corner = total[start:stop, start:stop]  # a product's two triangles may differ by rounding
        corner.copy_(corner.triu() + corner.triu(1).T)


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
