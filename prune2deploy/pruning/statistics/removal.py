"""Which units to remove, and what it costs, when the survivors make good what they can.

Optimal brain surgeon for structures (Hassibi and Stork 1993; as ZipLM, Kurtic et al. 2023, equations 3 to 5), in units
of the final loss: with G the covariance of an output projection's inputs and F that of the loss gradient at its output,
changing the weights by D raises the loss by ½ tr(F D G Dᵀ), and removing the columns S, the others at their best, costs

    ½ tr(W_Sᵀ F W_S (G⁻¹_SS)⁻¹).

A bias that takes up the mean of what goes is why G is centred.
"""

import itertools
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import columns_of
from prune2deploy.models.projection import Projection
from prune2deploy.pruning.statistics.importance import Importance
from prune2deploy.pruning.statistics.linear_algebra import inverse_, solve_

if TYPE_CHECKING:
    import torch

DAMPING = 1e-3  # of the inputs' mean variance, added to G: the least that keeps inverses of empty directions in bounds
PARTS = 16  # in which a matrix is brought up to date
STEPS = 48  # in which a block of filters goes; all filters of a step are chosen at once


def removal_curve(
    weight: "torch.Tensor", covariance: "torch.Tensor", sensitivity: "torch.Tensor", unit_size: int,
    per_step: int | None = None, keep: int = 0, overwrite: bool = False,
) -> Importance:
    """Remove the cheapest units until `keep` are left, on the device that the tensors are on.

    Args:
        weight: [d, k] of the output projection; k = units · unit_size.
        covariance: G, [k, k].
        sensitivity: F, [d, d].
        unit_size: columns of a unit.
        per_step: units that go at once; by default one if a unit has several columns, else a 48th of them.
        keep: where to stop.
        overwrite: `covariance`, in float64, may be.

    Returns:
        The order, and the expected loss at each width; within a step it grows linearly. Below `keep` neither means
        anything.
    """
    import torch

    units = weight.shape[1] // unit_size
    per_step = per_step or (1 if unit_size > 1 else max(1, units // STEPS))
    if not covariance.any():
        return Importance(np.arange(units), np.zeros(units + 1))
    inverse = inverse_(damped(covariance, overwrite))
    seen = _square_root(sensitivity.double()) @ weight.double()  # what of the weights the loss sees
    left = np.arange(units)
    gone: list[int] = []
    loss = np.zeros(units + 1)
    while len(left) > keep:
        scores = _scores(seen, inverse, unit_size).cpu().numpy()
        going = np.sort(np.argsort(scores, kind="stable")[: min(per_step, len(left) - keep)])
        stays = np.delete(np.arange(len(left)), going)
        at, rest = (columns_of(some, unit_size).to(weight.device) for some in (going, stays))
        share = torch.linalg.inv(inverse[at[:, None], at])
        cost = max(0.0, 0.5 * float(((seen[:, at] @ share) * seen[:, at]).sum()))  # below 0 it is rounding
        across = inverse[at[:, None], rest]
        taken_over = share @ across
        seen = _less(seen, torch.arange(len(seen), device=rest.device), rest, seen[:, at], taken_over)
        inverse = _less(inverse, rest, rest, across.T, taken_over)
        for count, unit in enumerate(sorted(going, key=lambda unit: scores[unit]), start=1):
            gone.append(int(left[unit]))
            loss[len(left) - count] = loss[len(left)] + cost * count / len(going)
        left = left[stays]
    return Importance(np.asarray([*left, *gone[::-1]]), loss)


def leave_(
    projection: Projection, dense: Projection, columns: "torch.Tensor", second: "torch.Tensor",
    mean: "torch.Tensor | None" = None,
) -> None:
    """Give `projection`, in place, what removal leaves of `dense`: zeros but for `columns`, which take over what they can.

    They are the least squares from what comes in there to the dense output, W G_:S (G_SS)⁻¹. `second`: G, [k, k] float64,
    damped. `mean`: [k] float64, of the inputs where G is centred; the bias then takes up the mean of what goes.
    """
    import torch

    weight = dense.weight.detach().double()
    left = weight[:, columns]
    if 0 < len(columns) < weight.shape[1]:
        rows = second[columns]
        left = solve_(rows[:, columns], rows @ weight.T).T
    with torch.no_grad():
        projection.weight.zero_()
        projection.weight[:, columns] = left.to(projection.weight.dtype)
        if projection.bias is not None:
            assert dense.bias is not None
            bias = dense.bias.double()
            projection.bias.copy_(bias if mean is None else bias + weight @ mean - left @ mean[columns])


def _less(
    matrix: "torch.Tensor", rows: "torch.Tensor", columns: "torch.Tensor", left: "torch.Tensor", right: "torch.Tensor"
) -> "torch.Tensor":
    """These rows and columns of `matrix`, less `left` @ `right`, in its own memory: at 3,072 squared, another has 75 MB.

    A row only moves up to where one that is done with was.
    """
    edges = np.linspace(0, len(rows), PARTS + 1).astype(int).tolist()
    for part in (slice(start, stop) for start, stop in itertools.pairwise(edges)):
        matrix[part, : len(columns)] = matrix[rows[part, None], columns] - left[part] @ right
    return matrix[: len(rows), : len(columns)]


def damped(covariance: "torch.Tensor", overwrite: bool = False) -> "torch.Tensor":
    """`covariance` with `DAMPING` of its mean variance added to the diagonal, in float64."""
    import torch

    result = covariance.to(torch.float64, copy=not overwrite)
    result.diagonal().add_(DAMPING * float(result.trace()) / len(result))
    return result


def _scores(seen: "torch.Tensor", inverse: "torch.Tensor", unit_size: int) -> "torch.Tensor":
    """[units]: what removing each unit alone would cost, times two."""
    import torch

    if unit_size == 1:
        return seen.square().sum(0) / inverse.diagonal()
    units = len(inverse) // unit_size
    own = inverse.reshape(units, unit_size, units, unit_size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    tall = seen.reshape(-1, units, unit_size).permute(1, 2, 0)
    return (torch.linalg.solve(own, tall) * tall).sum((1, 2))


def _square_root(matrix: "torch.Tensor") -> "torch.Tensor":
    """R with Rᵀ R = `matrix`, which is symmetric and positive semi-definite."""
    import torch

    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T
