"""Importance curves: per block, the order in which units go and the loss that is expected at each width."""

from dataclasses import dataclass

import numpy as np

from prune2deploy.models.block import Block


@dataclass(frozen=True)
class Importance:
    """Of one block. `order`: units, the most important first; `loss`: [units + 1], expected increase at each width."""

    order: np.ndarray
    loss: np.ndarray

    def kept(self, width: int) -> list[int]:
        """The units that stay at `width`, ascending."""
        return sorted(int(unit) for unit in self.order[:width])


def by_score(scores: dict[Block, np.ndarray]) -> dict[Block, Importance]:
    """Curves of scores that add up: dropping units costs the sum of theirs. `scores`: [units] per block."""
    curves = {}
    for block, score in scores.items():
        order = np.argsort(-score, kind="stable")
        dropped = np.concatenate([np.cumsum(score[order][::-1])[::-1], [0.0]])
        curves[block] = Importance(order, dropped)
    return curves


def fisher_importance(diagonal: dict[Block, np.ndarray]) -> dict[Block, Importance]:
    """½ Σ F_uu over the dropped units u: the loss increase to second order (Kwon et al. 2022, equations 4 to 7)."""
    return by_score({block: 0.5 * values for block, values in diagonal.items()})
