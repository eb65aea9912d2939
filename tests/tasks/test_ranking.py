import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from prune2deploy.tasks.paired import loss_between
from prune2deploy.tasks.ranking import Reranking, Retrieval, Similarity, ndcg, ordered, recall, reciprocal_rank


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, relevance = rng.normal(size=30), rng.integers(0, 3, 30)
    assert ndcg(ordered(scores, relevance)) == pytest.approx(ndcg_score([relevance], [scores], k=10))


def test_ties_are_no_luck():
    """A model that scores all alike finds nothing."""
    relevance = np.array([1] + [0] * 20)
    assert ndcg(ordered(np.zeros(21), relevance)) == reciprocal_rank(ordered(np.zeros(21), relevance)) == 0
    assert ndcg(ordered(np.zeros(3), np.array([1, 0, 0]))) == pytest.approx(1 / np.log2(4))


def test_rank_and_recall_by_hand():
    order = np.array([0, 0, 1, 0, 1])
    assert reciprocal_rank(order) == pytest.approx(1 / 3)
    assert (recall(order, 1), recall(order, 3), recall(order, 10)) == (0, 0.5, 1)
    assert ndcg(np.zeros(4)) == 0


def test_candidates_of_a_query_may_come_in_any_batch():
    rng = np.random.default_rng(0)
    queries, relevance = np.repeat(np.arange(6), 4), (rng.random(24) > 0.6).astype(float)
    relevance[queries == 2] = 0  # nothing to be found: not asked
    scores = rng.normal(size=(24, 1))
    labels = np.stack([relevance, queries], axis=1)
    metric, order = Reranking("logits", "mrr@10"), rng.permutation(24)
    for places in (order[:7], order[7:]):
        metric.update({"logits": scores[places]}, labels[places], None, places.tolist())
    wanted = []
    for query in range(6):
        rows = np.flatnonzero(queries == query)
        best = [relevance[row] for row in rows[np.argsort(-scores[rows, 0])]]
        if any(best):
            wanted.append(1 / (1 + best.index(1)))
    assert metric.score().value == pytest.approx(100 * np.mean(wanted))
    assert (metric.score().n, metric.name) == (5, "MRR@10")
    assert len(metric.points) == 5
    assert loss_between(metric, metric).points == 0


def vectors_of(pairs, size=6, seed=0):
    """A vector for each number of a text, and what `Retrieval` gets of `pairs` of a query and a document."""
    rng = np.random.default_rng(seed)
    queries, documents = rng.normal(size=(20, size)), rng.normal(size=(20, size))
    rows = [vector for query, document in pairs for vector in (queries[query], documents[document])]
    return queries, documents, np.array(rows), np.repeat(np.array(pairs), 2, axis=0)


@pytest.mark.parametrize("quality", ["ndcg@10", "recall@1", "recall@10"])
def test_every_query_is_held_against_every_document(quality):
    pairs = [(0, 0), (1, 1), (0, 2), (2, 3), (3, 1), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 9), (10, 10), (11, 11)]
    queries, documents, vectors, labels = vectors_of(pairs)
    metric = Retrieval("vector", quality)
    order = np.random.default_rng(1).permutation(len(vectors))
    for places in (order[:9], order[9:]):  # both of a pair may be in different batches
        metric.update({"vector": 3 * vectors[places]}, labels[places], None, places.tolist())
    there = sorted({document for _, document in pairs})
    wanted = []
    for query in sorted({query for query, _ in pairs}):
        cosines = [
            queries[query] @ documents[each] / np.linalg.norm(queries[query]) / np.linalg.norm(documents[each])
            for each in there
        ]
        right = [float((query, each) in pairs) for each in there]
        ranked = np.array(right)[np.argsort(-np.array(cosines))]
        if quality == "ndcg@10":
            wanted.append(ndcg_score([right], [cosines], k=10))
        else:
            wanted.append(ranked[: int(quality[7:])].sum() / sum(right))
    assert metric.score().value == pytest.approx(100 * np.mean(wanted))
    assert metric.score().n == len(wanted)


def test_two_texts_that_are_the_same_document_are_one():
    """Else the second copy would stand in the way of the first."""
    pairs = [(number, 0) for number in range(4)]
    _, _, vectors, labels = vectors_of(pairs)
    metric = Retrieval("vector", "recall@1")
    metric.update({"vector": vectors}, labels, None, list(range(8)))
    assert metric.score().value == 100


@pytest.mark.parametrize("ranks", [True, False])
def test_similarity_is_a_correlation_over_pairs(ranks):
    rng = np.random.default_rng(2)
    vectors, scores = rng.normal(size=(40, 5)), rng.random(20)
    metric = Similarity("vector", ranks)
    places = rng.permutation(40)
    metric.update({"vector": vectors[places]}, np.repeat(scores, 2)[places], None, places.tolist())
    cosines = [
        vectors[2 * row] @ vectors[2 * row + 1] / np.prod([np.linalg.norm(vectors[2 * row + each]) for each in (0, 1)])
        for row in range(20)
    ]
    wanted = spearmanr(cosines, scores).statistic if ranks else np.corrcoef(cosines, scores)[0, 1]
    assert metric.score().value == pytest.approx(100 * wanted)
    assert metric.score().n == 20
    assert metric.score().standard_error > 0


def test_a_loss_of_a_ranking_is_over_queries():
    pairs = [(number, number) for number in range(12)]
    _, documents, vectors, labels = vectors_of(pairs)
    good, bad = Retrieval("vector", "ndcg@10"), Retrieval("vector", "ndcg@10")
    perfect = np.repeat(documents[:12], 2, axis=0)
    good.update({"vector": perfect}, labels, None, list(range(24)))
    bad.update({"vector": vectors}, labels, None, list(range(24)))
    lost = loss_between(good, bad)
    assert good.score().value == pytest.approx(100)
    assert (lost.n, lost.points) == (12, pytest.approx(100 - bad.score().value))
    assert all(before >= after for before, after in itertools.zip_longest(good.points, bad.points))
