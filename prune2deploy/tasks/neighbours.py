"""How good vectors are by the labels of their neighbours."""

import numpy as np

from prune2deploy.tasks.base import Arrays
from prune2deploy.tasks.metrics import Mean, OfOutput, unit

NEIGHBOURS = 5


class Neighbours(Mean, OfOutput):
    """The share of samples whose label most of their `NEIGHBOURS` nearest others have, by the cosine of `output`, [n, size].

    Where labels are as frequent among these, the nearer ones count. Each sample is judged by all others.
    """

    name = "kNN accuracy"

    def _judged(self, kept: np.ndarray) -> np.ndarray:
        """See Metric: 1 where the neighbours are right, of each."""
        vectors, labels = kept[:, :-1], kept[:, -1].astype(int)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(labels) - 1)]
        # a vote of the nearest counts a little more, which decides where as many are for one label as for another
        votes = 1 - np.arange(nearest.shape[1]) / (2 * NEIGHBOURS**2)
        given = [np.bincount(labels[each], weights=votes).argmax() if len(each) else -1 for each in nearest]
        return (np.asarray(given) == labels)[:, None].astype(np.float64)

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(vector, label) of each."""
        return np.concatenate([unit(outputs[self.output]), labels[:, None]], axis=1)
