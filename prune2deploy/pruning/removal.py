"""Which units to remove, and what it costs, when the survivors make good what they can.

Optimal brain surgeon for structures (Hassibi and Stork 1993; as ZipLM, Kurtic et al. 2023, equations 3 to 5), in units
of the final loss: with G the covariance of an output projection's inputs and F that of the loss gradient at its output,
changing the weights by D raises the loss by ½ tr(F D G Dᵀ), and removing the columns S, the others at their best, costs

    ½ tr(W_Sᵀ F W_S (G⁻¹_SS)⁻¹).

A bias that takes up the mean of what goes is why G is centred.
"""

import numpy as np

from prune2deploy.pruning.importance import Importance

DAMPING = 1e-3  # of the inputs' mean variance, added to G: the least that keeps inverses of empty directions in bounds
STEPS = 48  # in which a block of filters goes; all filters of a step are chosen at once


def removal_curve(
    weight: np.ndarray, covariance: np.ndarray, sensitivity: np.ndarray, unit_size: int, per_step: int | None = None,
    keep: int = 0,
) -> Importance:
    """Remove the cheapest units until `keep` are left.

    Args:
        weight: [d, k] of the output projection; k = units · unit_size.
        covariance: G, [k, k].
        sensitivity: F, [d, d].
        unit_size: columns of a unit.
        per_step: units that go at once; by default one if a unit has several columns, else a 48th of them.
        keep: where to stop.

    Returns:
        The order, and the expected loss at each width; within a step it grows linearly. Below `keep` neither means
        anything.
    """
    units = weight.shape[1] // unit_size
    per_step = per_step or (1 if unit_size > 1 else max(1, units // STEPS))
    if not covariance.any():
        return Importance(np.arange(units), np.zeros(units + 1))
    inverse = np.linalg.inv(damped(covariance))
    seen = _square_root(sensitivity.astype(np.float64)) @ weight  # what of the weights the loss sees
    left = np.arange(units)
    gone: list[int] = []
    loss = np.zeros(units + 1)
    while len(left) > keep:
        scores = _scores(seen, inverse, unit_size)
        going = np.sort(np.argsort(scores, kind="stable")[: min(per_step, len(left) - keep)])
        at, stays = _columns(going, unit_size), np.delete(np.arange(len(left)), going)
        rest = _columns(stays, unit_size)
        share = np.linalg.inv(inverse[np.ix_(at, at)])
        cost = 0.5 * float(((seen[:, at] @ share) * seen[:, at]).sum())
        seen = seen[:, rest] - seen[:, at] @ (share @ inverse[np.ix_(at, rest)])
        inverse = inverse[np.ix_(rest, rest)] - inverse[np.ix_(rest, at)] @ (share @ inverse[np.ix_(at, rest)])
        for count, unit in enumerate(sorted(going, key=lambda unit: scores[unit]), start=1):
            gone.append(int(left[unit]))
            loss[len(left) - count] = loss[len(left)] + cost * count / len(going)
        left = left[stays]
    return Importance(np.asarray([*left, *gone[::-1]]), loss)


def damped(covariance: np.ndarray) -> np.ndarray:
    """`covariance` with `DAMPING` of its mean variance added to the diagonal."""
    strength = DAMPING * float(np.trace(covariance)) / len(covariance)
    return covariance + strength * np.eye(len(covariance))


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
