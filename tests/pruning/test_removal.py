import itertools

import numpy as np
import pytest
import torch

from prune2deploy.pruning.statistics import removal
from prune2deploy.pruning.statistics.removal import DAMPING


def made_up(units, size, outputs=5, seed=0):
    rng = np.random.default_rng(seed)
    k = units * size
    weight = rng.normal(size=(outputs, k))
    root = rng.normal(size=(k, k + 3))
    pull = rng.normal(size=(outputs, 2))
    return weight, root @ root.T / k, pull @ pull.T + 0.1 * np.eye(outputs)


def removal_curve(weight, covariance, sensitivity, *options, **named):
    return removal.removal_curve(*map(torch.from_numpy, (weight, covariance, sensitivity)), *options, **named)


def best_loss(weight, covariance, sensitivity, kept):
    """½ min tr(F D G Dᵀ) over weights without the columns that are not `kept`, solved as one least-squares problem."""
    gram = covariance + DAMPING * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    x = np.linalg.cholesky(gram).T  # rows stand for samples
    f = np.linalg.cholesky(sensitivity)
    design = np.kron(x[:, kept], f.T)
    target = (f.T @ weight @ x.T).T.ravel()
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0] if len(kept) else target
    return 0.5 * float(residual @ residual)


def columns(units, size):
    return [unit * size + offset for unit in units for offset in range(size)]


@pytest.mark.parametrize(("units", "size", "per_step"), [(6, 1, 1), (5, 3, 1), (7, 1, 2)])
def test_the_loss_at_each_step_is_the_least_that_the_survivors_can_reach(units, size, per_step):
    weight, covariance, sensitivity = made_up(units, size)
    curve = removal_curve(weight, covariance, sensitivity, size, per_step)
    assert sorted(curve.order.tolist()) == list(range(units))
    assert curve.loss[units] == 0
    for width in range(units - per_step, -1, -per_step):
        wanted = best_loss(weight, covariance, sensitivity, columns(curve.kept(width), size))
        assert curve.loss[width] == pytest.approx(wanted, rel=1e-8)
    assert (np.diff(curve.loss) < 0).all()


@pytest.mark.parametrize("size", [1, 3])
def test_each_step_takes_the_unit_that_costs_least(size):
    weight, covariance, sensitivity = made_up(5, size, seed=1)
    curve = removal_curve(weight, covariance, sensitivity, size, 1)
    for width in range(4, -1, -1):
        before = curve.kept(width + 1)
        costs = {
            kept: best_loss(weight, covariance, sensitivity, columns(kept, size))
            for kept in itertools.combinations(before, width)
        }
        assert tuple(curve.kept(width)) == min(costs, key=costs.get)


def test_a_unit_that_others_can_stand_for_goes_before_a_weak_one():
    # units 0 and 1 carry the same signal, unit 2 a weaker one of its own
    x = np.random.default_rng(0).normal(size=(1000, 2))
    inputs = np.stack([x[:, 0], x[:, 0], 0.5 * x[:, 1]], 1)
    curve = removal_curve(np.ones((1, 3)), np.cov(inputs.T), np.eye(1), 1, 1)
    assert curve.kept(2) in ([0, 2], [1, 2])


def test_stopping_early_changes_nothing_above():
    weight, covariance, sensitivity = made_up(9, 1)
    whole = removal_curve(weight, covariance, sensitivity, 1, 2)
    part = removal_curve(weight, covariance, sensitivity, 1, 2, keep=5)
    assert part.kept(5) == whole.kept(5)
    np.testing.assert_array_equal(part.loss[5:], whole.loss[5:])
    assert len(removal_curve(weight, covariance, sensitivity, 1, 2, keep=4).kept(4)) == 4


def test_inputs_that_never_move_cost_nothing():
    curve = removal_curve(np.ones((2, 4)), np.zeros((4, 4)), np.eye(2), 1)
    assert not curve.loss.any()
    assert sorted(curve.order) == [0, 1, 2, 3]
