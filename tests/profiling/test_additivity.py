import numpy as np
import pytest
from transformers import BertConfig

from prune2deploy.errors import ContradictionError
from prune2deploy.models.family import families
from prune2deploy.models.table import Curve
from prune2deploy.profiling.additivity import (
    block_sum,
    fingerprint,
    fit_fixed,
    random_plans,
    scaled,
    widths_by_kind,
)

BLOCKS = families()["bert"].blocks(
    BertConfig(num_hidden_layers=6, num_attention_heads=4, hidden_size=32, intermediate_size=64)
)
GRIDS = {"attention": [0, 1, 2, 3, 4], "ffn": [0, 16, 32, 48, 64]}
CURVES = {
    "attention": Curve(widths=[0, 1, 2, 3, 4], ms=[0, 0.3, 0.5, 0.8, 1.0], standard_error_ms=[0.01] * 5),
    "ffn": Curve(widths=[0, 16, 32, 48, 64], ms=[0, 0.5, 0.6, 1.5, 2.0], standard_error_ms=[0.01] * 5),
}


def test_sum_of_blocks():
    widths = dict.fromkeys(BLOCKS, 0) | {BLOCKS[0]: 2, BLOCKS[1]: 40, BLOCKS[3]: 64}
    assert block_sum(widths, CURVES) == pytest.approx(0.5 + (0.6 + 1.5) / 2 + 2.0)


def test_fit_recovers_the_fixed_part_and_the_scale():
    plans = random_plans(BLOCKS, GRIDS, 8, seed=1)
    measured = [3.0 + 1.2 * block_sum(widths, CURVES) for widths in plans]
    assert fit_fixed(plans, measured, CURVES) == pytest.approx((3.0, 1.2))


def test_fit_minimises_the_relative_error():
    plans = random_plans(BLOCKS, GRIDS, 8, seed=2)
    sums = np.array([block_sum(widths, CURVES) for widths in plans])
    measured = (3.0 + 1.2 * sums) * np.random.default_rng(0).lognormal(0, 0.1, len(plans))
    scale, fixed = np.polyfit(sums, measured, 1, w=1 / measured)
    assert fit_fixed(plans, list(measured), CURVES) == pytest.approx((fixed, scale))


@pytest.mark.parametrize(("fixed", "scale"), [(0.0, 1.0), (-0.5, 1.2), (90.0, -0.5), (9.0, 0.0)])
def test_models_that_their_blocks_do_not_explain(fixed, scale):
    plans = random_plans(BLOCKS, GRIDS, 8, seed=1)[:1] + random_plans(BLOCKS, GRIDS, 8, seed=1)[2:]
    measured = [fixed + scale * block_sum(widths, CURVES) for widths in plans]
    with pytest.raises(ContradictionError, match=r"cannot be pruned takes .* ms, and blocks .* run this again") as caught:
        fit_fixed(plans, measured, CURVES)
    assert caught.value.exit_code == 1


def test_scaled_curve_keeps_its_widths():
    doubled = scaled(CURVES["ffn"], 2.0)
    assert doubled.widths == CURVES["ffn"].widths
    assert doubled.ms == pytest.approx([0, 1.0, 1.2, 3.0, 4.0])
    assert doubled.standard_error_ms == pytest.approx([0.02] * 5)


def test_random_plans_span_what_pruning_can_leave():
    plans = random_plans(BLOCKS, GRIDS, 10, seed=0)
    assert plans[0] == {block: block.units for block in BLOCKS}
    assert plans[1] == dict.fromkeys(BLOCKS, 0)
    assert len(plans) == 12
    assert all(width in GRIDS[block.kind] for widths in plans for block, width in widths.items())
    assert all(set(widths) == set(BLOCKS) for widths in plans)
    assert any(0 in widths.values() for widths in plans[2:]), "vanished blocks are part of the test"
    sums = [block_sum(widths, CURVES) / block_sum(plans[0], CURVES) for widths in plans[2:]]
    for part in (sums[:4], sums[4:]):  # fitted on, and unseen
        assert max(part) - min(part) > 0.3
    assert len({fingerprint(widths) for widths in plans}) == len(plans)


def test_random_plans_depend_on_the_seed_only():
    assert random_plans(BLOCKS, GRIDS, 5, seed=0) == random_plans(BLOCKS, GRIDS, 5, seed=0)
    assert random_plans(BLOCKS, GRIDS, 5, seed=0) != random_plans(BLOCKS, GRIDS, 5, seed=1)


def test_fingerprint_does_not_depend_on_the_order():
    widths = random_plans(BLOCKS, GRIDS, 1, seed=0)[2]
    assert fingerprint(dict(reversed(widths.items()))) == fingerprint(widths)


def test_widths_for_a_person_are_in_layer_order():
    widths = {block: block.layer + (10 if block.kind == "ffn" else 0) for block in BLOCKS}
    assert widths_by_kind(widths) == {"attention": [0, 1, 2, 3, 4, 5], "ffn": [10, 11, 12, 13, 14, 15]}
