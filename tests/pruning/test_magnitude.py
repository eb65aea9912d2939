import numpy as np
import pytest
import synthetic
from tiny import layers_of

from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.family import blocks_of
from prune2deploy.pruning.methods.magnitude import MagnitudeMethod, norm_shares
from prune2deploy.pruning.search.costs import LatencyCosts

MODULES = {  # (producers, output projection) by family and kind
    ("bert", "attention"): (
        ["attention.self.query", "attention.self.key", "attention.self.value"], "attention.output.dense"
    ),
    ("bert", "ffn"): (["intermediate.dense"], "output.dense"),
    ("vit", "attention"): (["attention.q_proj", "attention.k_proj", "attention.v_proj"], "attention.o_proj"),
    ("vit", "ffn"): (["mlp.fc1"], "mlp.fc2"),
}  # fmt: skip


def squared_norm(case, block, unit):
    """Of the weights of one unit, entry by entry."""
    producers, consumer = MODULES[case.family, block.kind]
    layer = layers_of(case.model)[block.layer]
    rows = range(unit * block.unit_size, (unit + 1) * block.unit_size)
    total = sum(float(layer.get_submodule(path).weight[row].double().square().sum()) for path in producers for row in rows)
    return total + sum(float(layer.get_submodule(consumer).weight[:, row].double().square().sum()) for row in rows)


def test_a_units_score_is_its_share_of_the_squared_norm(case):
    for block in blocks_of(case.model):
        norms = np.array([squared_norm(case, block, unit) for unit in range(block.units)])
        np.testing.assert_allclose(norm_shares(case.model, block), norms / norms.sum(), rtol=1e-6)


def test_blocks_of_large_weights_are_not_preferred(case):
    block = blocks_of(case.model)[1]
    before = norm_shares(case.model, block)
    for path in (*MODULES[case.family, "ffn"][0], MODULES[case.family, "ffn"][1]):
        layers_of(case.model)[0].get_submodule(path).weight.mul_(10)
    np.testing.assert_allclose(norm_shares(case.model, block), before, rtol=1e-6)


def test_the_largest_units_stay_and_there_is_no_recovery(case):
    method = MagnitudeMethod(synthetic.calibration(case))
    costs = LatencyCosts(synthetic.latency_table(method.signature))
    plan = method.search(costs, 0.6 * costs.table.dense_ms)
    for block in blocks_of(case.model):
        shares = norm_shares(case.model, block)
        kept = plan.units(block)
        assert min(shares[kept], default=1) >= max(np.delete(shares, kept), default=0)
    assert method.steps(costs, 0.6 * costs.table.dense_ms) == []


def test_search_says_what_is_reachable(case):
    costs = LatencyCosts(synthetic.latency_table(MagnitudeMethod(synthetic.calibration(case)).signature, fixed=2.5))
    with pytest.raises(UnreachableBudgetError, match=r"2\.5 ms"):
        MagnitudeMethod(synthetic.calibration(case)).search(costs, 2.4)
