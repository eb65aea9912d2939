import numpy as np
import pytest
import synthetic
import tiny
import torch

from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.methods.method import State
from prune2deploy.pruning.methods.ziplm import ZipLmMethod
from prune2deploy.pruning.statistics.removal import DAMPING


@pytest.fixture
def method(case):
    return ZipLmMethod(synthetic.calibration(case))


def rows_of(case, block):
    """Inputs of the dense output projection, one token below the other, and below them what damping is the same as.

    Rotated, as least squares do not mind, to as many rows as columns.
    """
    seen = []
    projection = output_projection(case.model, block)
    handle = projection.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].double()))
    for index in range(len(case.samples)):
        case.model(**case.samples.batch([index]).tensors())
    handle.remove()
    x = torch.cat(seen).numpy()
    damping = DAMPING * np.square(x).sum() / len(x) / x.shape[1]
    return np.linalg.qr(np.vstack([x / np.sqrt(len(x)), np.sqrt(damping) * np.eye(x.shape[1])]))[1]


def least_squares(rows, weight, columns):
    """(weights of `columns` that come nearest to the dense output, the squared error that remains)."""
    wanted = rows @ weight.T
    some = rows[:, columns]
    found = np.linalg.solve(some.T @ some, some.T @ wanted)
    return found.T, np.square(some @ found - wanted).sum()


def dense_weight(case, block):
    return output_projection(case.model, block).weight.double().numpy()


@pytest.mark.parametrize("index", [0, 3])
def test_every_removal_is_the_cheapest_there_is(case, method, index):
    block = blocks_of(case.model)[index]
    rows, weight, curve = rows_of(case, block), dense_weight(case, block), method.errors[block]
    whole = np.square(rows @ weight.T).sum()

    def error(units):
        return least_squares(rows, weight, columns_of(units, block.unit_size).numpy())[1] / whole

    assert sorted(curve.order.tolist()) == list(range(block.units))
    for width in range(block.units - 1, -1, -max(1, block.units // 4)):
        kept = curve.kept(width)
        found = error(kept)
        assert curve.loss[width] == pytest.approx(found, rel=2e-3, abs=1e-6)
        before = curve.kept(width + 1)
        others = [error([unit for unit in before if unit != gone]) for gone in before]
        assert found <= min(others) * (1 + 2e-3) + 1e-6
    assert curve.loss[0] == pytest.approx(1)
    assert curve.loss[-1] == 0


def test_updated_weights_are_least_squares_on_dense_inputs(case, method):
    plan = tiny.plan_keeping(case.model, tiny.PLANS["ffn vanished"])
    ((name, update),) = method.steps(None, 0.0)
    updated = update(State(plan, method.masked(plan))).model
    assert name == "OBS update"
    changed = 0.0
    for block in blocks_of(case.model):
        columns = columns_of(plan.units(block), block.unit_size).numpy()
        projection = output_projection(updated, block)
        weight = dense_weight(case, block)
        if len(columns):
            wanted, _ = least_squares(rows_of(case, block), weight, columns)
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(projection.weight.numpy()[:, columns], wanted, rtol=1e-2, atol=1e-3 * scale)
            changed = max(changed, np.abs(wanted - weight[:, columns]).max() / scale)
            assert torch.equal(projection.bias, output_projection(case.model, block).bias)
        else:
            assert not projection.weight.any()
            assert not projection.bias.any()
    assert changed > 0.1


def test_a_removed_block_takes_its_bias_along(case, method):
    plan = tiny.plan_keeping(case.model, tiny.PLANS["attention vanished"])
    masked = method.masked(plan)
    for block in blocks_of(case.model):
        bias = output_projection(masked, block).bias
        assert bool(bias.any()) == bool(plan.units(block))
