"""Mask rearrangement: swap kept and dropped units of a block so that the dropped ones cancel better."""

from collections.abc import Iterable

import numpy as np

SMALLEST_GAIN = 1e-6  # of the objective; below it, float32 noise would swap for ever


def rearrange(fisher: np.ndarray, kept: Iterable[int]) -> list[int]:
    """The units to keep, as many as before, ascending.

    Minimises 1ᵀ F 1 over the dropped units, the loss increase with the Fisher information's off-diagonal part (Kwon et
    al. 2022, equation 9), by the best swap of a kept and a dropped unit until no swap helps.

    Args:
        fisher: [units, units], symmetric and positive semi-definite.
        kept: the units kept so far.
    """
    units = len(fisher)
    dropped = np.ones(units, dtype=bool)
    dropped[list(kept)] = False
    if dropped.all() or not dropped.any():
        return np.flatnonzero(~dropped).tolist()
    diagonal = fisher.diagonal()
    pull = fisher @ dropped.astype(fisher.dtype)  # pull[u] = Σ over dropped v of F_uv
    objective = float(pull[dropped].sum())
    while objective > 0:
        out, back = np.flatnonzero(~dropped), np.flatnonzero(dropped)
        # dropping o and taking b back changes the objective by 2 pull_o + F_oo − 2 pull_b + F_bb − 2 F_ob
        changes = (2 * pull[out] + diagonal[out])[:, None] + (diagonal[back] - 2 * pull[back])[None, :]
        changes -= 2 * fisher[np.ix_(out, back)]
        best = int(changes.argmin())
        change = float(changes.flat[best])
        if change > -SMALLEST_GAIN * objective:
            break
        leaving, returning = out[best // len(back)], back[best % len(back)]
        dropped[leaving], dropped[returning] = True, False
        pull += fisher[:, leaving] - fisher[:, returning]
        objective += change
    return np.flatnonzero(~dropped).tolist()
