"""Metrics of search: how far up among all candidates those that are right for a query come."""

from collections.abc import Callable

import numpy as np

from prune2deploy.tasks.base import Arrays
from prune2deploy.tasks.metrics import Mean, OfOutput, correlation, unit

TOP = 10  # candidates that a person looks at
Quality = Callable[[np.ndarray], float]  # of the relevance of all candidates, in the order in which they come


def ordered(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """`relevance` in falling order of `scores`, both [candidates]; of equal scores, the least relevant comes first."""
    return relevance[np.lexsort((relevance, -scores))]


def ndcg(relevance: np.ndarray) -> float:
    """Discounted cumulative gain of the first `TOP`, as a share of the best there could be (Järvelin and Kekäläinen 2002).

    The gain of a candidate is its relevance, as in trec_eval.
    """
    best = gain(np.sort(relevance)[::-1])
    return gain(relevance) / best if best else 0.0


def gain(relevance: np.ndarray) -> float:
    """Of the first `TOP`, each discounted by the logarithm of its rank."""
    top = relevance[:TOP]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def reciprocal_rank(relevance: np.ndarray) -> float:
    """One over the rank of the first that is relevant, 0 where none of the first `TOP` is."""
    places = np.flatnonzero(relevance[:TOP] > 0)
    return 1.0 / (places[0] + 1) if len(places) else 0.0


def recall(relevance: np.ndarray, top: int) -> float:
    """The share of the relevant ones that is among the first `top`."""
    return float((relevance[:top] > 0).sum() / max(1, (relevance > 0).sum()))


QUALITIES: dict[str, tuple[str, Quality]] = {
    "ndcg@10": (f"nDCG@{TOP}", ndcg),
    "mrr@10": (f"MRR@{TOP}", reciprocal_rank),
    "recall@1": ("recall@1", lambda relevance: recall(relevance, 1)),
    "recall@10": (f"recall@{TOP}", lambda relevance: recall(relevance, TOP)),
}


class Ranking(Mean, OfOutput):
    """The mean over queries of how well their candidates are ranked, times 100; those without a right one are left out.

    `quality`: a name in `QUALITIES`.
    """

    def __init__(self, output: str, quality: str):
        super().__init__(output)
        self.name, self.quality = QUALITIES[quality]

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        return super().value(numbers) if len(numbers) else 0.0


class Reranking(Ranking):
    """Of scores in `output`, [n, 1], that pairs of a query and a candidate get; labels [n, 2]: (relevance, query)."""

    def _judged(self, kept: np.ndarray) -> np.ndarray:
        """See Metric: a row a query."""
        scores, relevance, queries = kept.T
        groups = [queries == query for query in np.unique(queries)]
        found = [self.quality(ordered(scores[rows], relevance[rows])) for rows in groups if (relevance[rows] > 0).any()]
        return np.asarray(found).reshape(-1, 1)

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(score, relevance, query) of each."""
        return np.concatenate([outputs[self.output][:, :1], labels], axis=1).astype(np.float64)


class OfVectors:
    """What metrics of pairs of texts keep: the vector in `output`, [n, size], and the labels, [n, some]."""

    output: str

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        return np.concatenate([unit(outputs[self.output]), labels.reshape(len(labels), -1)], axis=1)


class Retrieval(OfVectors, Ranking):
    """Of the vectors of queries and documents in `output`: each query is held against all documents, by the cosine.

    Samples are a query and a document of its in turn; labels [n, 2]: (query, document), the numbers of both texts.
    """

    def _judged(self, kept: np.ndarray) -> np.ndarray:
        """See Metric: a row a query."""
        vectors, queries, documents = kept[:, :-2], kept[:, -2].astype(int), kept[:, -1].astype(int)
        of_document = dict(zip(documents[1::2].tolist(), vectors[1::2], strict=True))
        of_query = dict(zip(queries[::2].tolist(), vectors[::2], strict=True))
        numbers, every = list(of_document), np.stack(list(of_document.values()))
        place = {document: index for index, document in enumerate(numbers)}
        right: dict[int, set[int]] = {}
        for query, document in zip(queries[::2].tolist(), documents[::2].tolist(), strict=True):
            right.setdefault(query, set()).add(place[document])
        found = []
        for query, vector in of_query.items():
            relevance = np.zeros(len(every))
            relevance[list(right[query])] = 1
            found.append(self.quality(ordered(every @ vector, relevance)))
        return np.asarray(found).reshape(-1, 1)


class Similarity(OfVectors, OfOutput):
    """The correlation of the cosine of two vectors in `output` with the label [n] of the pair, times 100.

    Samples are both texts of a pair in turn, with the same label.
    """

    def __init__(self, output: str, ranks: bool):
        super().__init__(output)
        self.ranks = ranks
        self.name = f"{'Spearman' if ranks else 'Pearson'} correlation"

    def _judged(self, kept: np.ndarray) -> np.ndarray:
        """See Metric: (cosine, label) of each pair."""
        return np.stack([(kept[::2, :-1] * kept[1::2, :-1]).sum(-1), kept[::2, -1]], axis=1)

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        from scipy.stats import rankdata

        return correlation(*((rankdata(column) for column in numbers.T) if self.ranks else numbers.T))
