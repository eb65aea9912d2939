"""Which units to remove, and what it costs, when the survivors make good what they can.

Optimal brain surgeon for structures (Hassibi and Stork 1993; as ZipLM, Kurtic et al. 2023, equations 3 to 5), in units
of the final loss: with G the covariance of an output projection's inputs and F that of the loss gradient at its output,
changing the weights by D raises the loss by ½ tr(F D G Dᵀ), and removing the columns S, the others at their best, costs

    ½ tr(W_Sᵀ F W_S (G⁻¹_SS)⁻¹).

A bias that takes up the mean of what goes is why G is centred.
"""

import numpy as np
from scipy.linalg import inv

from prune2deploy.memory import give_back
from prune2deploy.pruning.importance import Importance

DAMPING = 1e-3  # of the inputs' mean variance, added to G: the least that keeps inverses of empty directions in bounds
PARTS = 16  # in which a matrix is brought up to date
STEPS = 48  # in which a block of filters goes; all filters of a step are chosen at once


def removal_curve(
    weight: np.ndarray, covariance: np.ndarray, sensitivity: np.ndarray, unit_size: int, per_step: int | None = None,
    keep: int = 0, overwrite: bool = False,
) -> Importance:
    """Remove the cheapest units until `keep` are left.

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
    units = weight.shape[1] // unit_size
    per_step = per_step or (1 if unit_size > 1 else max(1, units // STEPS))
    if not covariance.any():
        return Importance(np.arange(units), np.zeros(units + 1))
    inverse = inv(damped(covariance, overwrite).T, overwrite_a=True).T  # symmetric; Fortran's order, so that no copy is made
    seen = _square_root(sensitivity.astype(np.float64)) @ weight  # what of the weights the loss sees
    left = np.arange(units)
    gone: list[int] = []
    loss = np.zeros(units + 1)
    while len(left) > keep:
        scores = _scores(seen, inverse, unit_size)
        going = np.sort(np.argsort(scores, kind="stable")[: min(per_step, len(left) - keep)])
        at, stays = _columns(going, unit_size), np.delete(np.arange(len(left)), going)
        rest = _columns(stays, unit_size)
        share = inv(inverse[np.ix_(at, at)])
        cost = 0.5 * float(((seen[:, at] @ share) * seen[:, at]).sum())
        across = inverse[np.ix_(at, rest)]
        taken_over = share @ across
        seen = _less(seen, np.arange(len(seen)), rest, seen[:, at], taken_over)
        inverse = _less(inverse, rest, rest, across.T, taken_over)
        for count, unit in enumerate(sorted(going, key=lambda unit: scores[unit]), start=1):
            gone.append(int(left[unit]))
            loss[len(left) - count] = loss[len(left)] + cost * count / len(going)
        left = left[stays]
        give_back()
    return Importance(np.asarray([*left, *gone[::-1]]), loss)


def _less(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """These rows and columns of `matrix`, less `left` @ `right`, in its own memory: at 3,072 squared, another has 75 MB.

    A row only moves up to where one that is done with was.
    """
    for part in np.array_split(np.arange(len(rows)), PARTS):
        matrix[part, : len(columns)] = matrix[np.ix_(rows[part], columns)] - left[part] @ right
    return matrix[: len(rows), : len(columns)]


def damped(covariance: np.ndarray, overwrite: bool = False) -> np.ndarray:
    """`covariance` with `DAMPING` of its mean variance added to the diagonal, in float64."""
    result = covariance.astype(np.float64, copy=not overwrite)
    result[np.diag_indices_from(result)] += DAMPING * float(np.trace(result)) / len(result)
    return result


def _scores(seen: np.ndarray, inverse: np.ndarray, unit_size: int) -> np.ndarray:
    """[units]: what removing each unit alone would cost, times two."""
    if unit_size == 1:
        return np.square(seen).sum(0) / inverse.diagonal()
    units = len(inverse) // unit_size
    own = inverse.reshape(units, unit_size, units, unit_size)[np.arange(units), :, np.arange(units), :]
    tall = seen.reshape(-1, units, unit_size).transpose(1, 0, 2)
    return np.einsum("uij,uij->u", np.linalg.solve(own, tall.transpose(0, 2, 1)), tall.transpose(0, 2, 1))


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """R with Rᵀ R = `matrix`, which is symmetric and positive semi-definite."""
    values, vectors = np.linalg.eigh(matrix)
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def _columns(units: np.ndarray, unit_size: int) -> np.ndarray:
    return (units[:, None] * unit_size + np.arange(unit_size)).ravel()
