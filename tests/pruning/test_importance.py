import numpy as np
import pytest
import synthetic

from prune2deploy.pruning.statistics.importance import by_score, fisher_importance

BLOCK = synthetic.block("ffn", 5, 1)
OTHER = synthetic.block("attention", 2, 8)


def test_the_best_units_come_first():
    curve = by_score({BLOCK: np.array([0.1, 5.0, 3.0, 0.0, 4.0])})[BLOCK]
    assert curve.order.tolist() == [1, 4, 2, 0, 3]


def test_loss_is_the_sum_of_the_scores_of_what_is_dropped():
    score = np.array([0.1, 5.0, 3.0, 0.0, 4.0])
    curve = by_score({BLOCK: score})[BLOCK]
    for width in range(6):
        dropped = set(range(5)) - set(curve.kept(width))
        assert curve.loss[width] == pytest.approx(score[sorted(dropped)].sum())
    assert curve.loss[-1] == 0
    assert len(curve.loss) == 6


def test_no_other_choice_of_that_width_loses_less():
    score = np.random.default_rng(0).exponential(size=30)
    curve = by_score({BLOCK: score})[BLOCK]
    for width in range(31):
        assert curve.loss[width] == pytest.approx(np.sort(score)[: 30 - width].sum())


def test_kept_units_ascend_and_are_plain_numbers():
    curve = by_score({BLOCK: np.array([0.1, 5.0, 3.0, 0.0, 4.0])})[BLOCK]
    assert curve.kept(3) == [1, 2, 4]
    assert curve.kept(0) == []
    assert curve.kept(5) == [0, 1, 2, 3, 4]
    assert all(type(unit) is int for unit in curve.kept(5))


def test_equal_scores_keep_their_order():
    curve = by_score({BLOCK: np.ones(5)})[BLOCK]
    assert curve.order.tolist() == [0, 1, 2, 3, 4]
    assert curve.kept(2) == [0, 1]


def test_fisher_loss_is_half_the_diagonal():
    curves = fisher_importance({BLOCK: np.array([1.0, 2.0, 3.0, 4.0, 5.0]), OTHER: np.array([8.0, 6.0])})
    assert curves[BLOCK].loss.tolist() == [7.5, 5.0, 3.0, 1.5, 0.5, 0.0]
    assert curves[OTHER].loss.tolist() == [7.0, 3.0, 0.0]
    assert curves[OTHER].kept(1) == [0]
