import numpy as np
import pytest
from transformers import BertConfig

from prune2deploy.errors import ContradictionError
from prune2deploy.models.family import families
from prune2deploy.models.table import Curve
from prune2deploy.profiling.additivity import (
    Fit,
    block_sum,
    by_kind,
    changes,
    fingerprint,
    fit_fixed,
    random_plans,
    scaled,
)

BLOCKS = families()["bert"].blocks(
    BertConfig(num_hidden_layers=6, num_attention_heads=4, hidden_size=32, intermediate_size=64)
)
GRIDS = {"attention": {None: [0, 1, 2, 3, 4]}, "ffn": {None: [0, 16, 32, 48, 64]}}
CURVES = {
    "attention": [Curve(widths=[0, 1, 2, 3, 4], ms=[0, 0.3, 0.5, 0.8, 1.0], standard_error_ms=[0.01] * 5)],
    "ffn": [Curve(widths=[0, 16, 32, 48, 64], ms=[0, 0.5, 0.6, 1.5, 2.0], standard_error_ms=[0.01] * 5)],
}
LOWER = Curve(precision="int8", widths=[0, 32, 64], ms=[0, 0.3, 0.7], standard_error_ms=[0.01] * 3)
MIXED_GRIDS = {**GRIDS, "ffn": {**GRIDS["ffn"], "int8": LOWER.widths}}
MIXED = {**CURVES, "ffn": [*CURVES["ffn"], LOWER]}


def test_sum_of_blocks():
    choices = dict.fromkeys(BLOCKS, (0, None)) | {BLOCKS[0]: (2, None), BLOCKS[1]: (40, None), BLOCKS[3]: (64, None)}
    assert block_sum(choices, CURVES) == pytest.approx(0.5 + (0.6 + 1.5) / 2 + 2.0)
    lower = choices | {BLOCKS[3]: (48, "int8")}
    assert block_sum(lower, MIXED) == pytest.approx(0.5 + (0.6 + 1.5) / 2 + 0.5)


def test_changes_are_counted_between_blocks_that_are_there():
    own, lower, gone = (16, None), (32, "int8"), (0, None)
    for choices, count in (([own, own], 0), ([own, lower, lower, own], 2), ([lower, gone, own], 1), ([gone, lower], 0)):
        assert changes(dict(zip(BLOCKS, choices, strict=False))) == count


def test_fit_recovers_the_fixed_part_and_the_scale():
    plans = random_plans(BLOCKS, GRIDS, 8, seed=1)
    measured = [3.0 + 1.2 * block_sum(widths, CURVES) for widths in plans]
    assert_fit(fit_fixed(plans, measured, CURVES), 3.0, 1.2)


def assert_fit(fit, fixed, scale, change=0.0):
    assert (fit.fixed_ms, fit.scale, fit.change_ms) == pytest.approx((fixed, scale, change), abs=1e-6)


@pytest.mark.parametrize("change", [0.0, 0.05])
def test_fit_recovers_what_changes_of_precision_cost(change):
    plans = random_plans(BLOCKS, MIXED_GRIDS, 10, seed=1)
    true = Fit(3.0, 1.2, change)
    found = fit_fixed(plans, [true.predict(choices, MIXED) for choices in plans], MIXED)
    assert_fit(found, 3.0, 1.2, change)


def test_a_change_never_saves_time():
    plans = random_plans(BLOCKS, MIXED_GRIDS, 10, seed=1)
    assert fit_fixed(plans, [Fit(3.0, 1.2, -0.03).predict(choices, MIXED) for choices in plans], MIXED).change_ms == 0


def test_fit_minimises_the_relative_error():
    plans = random_plans(BLOCKS, GRIDS, 8, seed=2)
    sums = np.array([block_sum(widths, CURVES) for widths in plans])
    measured = (3.0 + 1.2 * sums) * np.random.default_rng(0).lognormal(0, 0.1, len(plans))
    scale, fixed = np.polyfit(sums, measured, 1, w=1 / measured)
    assert_fit(fit_fixed(plans, list(measured), CURVES), fixed, scale)


@pytest.mark.parametrize(("fixed", "scale"), [(0.0, 1.0), (-0.5, 1.2), (90.0, -0.5), (9.0, 0.0)])
def test_models_that_their_blocks_do_not_explain(fixed, scale):
    plans = random_plans(BLOCKS, GRIDS, 8, seed=1)[:1] + random_plans(BLOCKS, GRIDS, 8, seed=1)[2:]
    measured = [fixed + scale * block_sum(widths, CURVES) for widths in plans]
    with pytest.raises(ContradictionError, match=r"cannot be pruned takes .* ms, and blocks .* run this again") as caught:
        fit_fixed(plans, measured, CURVES)
    assert caught.value.exit_code == 1


def test_scaled_curve_keeps_its_widths():
    doubled = scaled(CURVES["ffn"][0], 2.0)
    assert doubled.widths == CURVES["ffn"][0].widths
    assert doubled.ms == pytest.approx([0, 1.0, 1.2, 3.0, 4.0])
    assert doubled.standard_error_ms == pytest.approx([0.02] * 5)


def test_random_plans_span_what_pruning_can_leave():
    plans = random_plans(BLOCKS, GRIDS, 10, seed=0)
    assert plans[0] == {block: (block.units, None) for block in BLOCKS}
    assert plans[1] == dict.fromkeys(BLOCKS, (0, None))
    assert len(plans) == 12
    assert all(width in GRIDS[block.kind][None] for choices in plans for block, (width, _) in choices.items())
    assert all(set(widths) == set(BLOCKS) for widths in plans)
    assert any((0, None) in choices.values() for choices in plans[2:]), "vanished blocks are part of the test"
    sums = [block_sum(widths, CURVES) / block_sum(plans[0], CURVES) for widths in plans[2:]]
    for part in (sums[:4], sums[4:]):  # fitted on, and unseen
        assert max(part) - min(part) > 0.3
    assert len({fingerprint(widths) for widths in plans}) == len(plans)


def test_random_plans_mix_the_precisions_that_were_measured():
    plans = random_plans(BLOCKS, MIXED_GRIDS, 10, seed=0)
    assert {lower for choices in plans[:2] for _, lower in choices.values()} == {None}
    for choices in plans[2:]:
        assert all(width in MIXED_GRIDS[block.kind][lower] for block, (width, lower) in choices.items())
    lower = [{lower for block, (_, lower) in choices.items() if block.kind == "ffn"} for choices in plans[2:]]
    assert lower.count({None, "int8"}) >= 8
    assert random_plans(BLOCKS, GRIDS, 10, seed=0) != plans


def test_random_plans_depend_on_the_seed_only():
    assert random_plans(BLOCKS, GRIDS, 5, seed=0) == random_plans(BLOCKS, GRIDS, 5, seed=0)
    assert random_plans(BLOCKS, GRIDS, 5, seed=0) != random_plans(BLOCKS, GRIDS, 5, seed=1)


def test_fingerprint_does_not_depend_on_the_order():
    widths = random_plans(BLOCKS, GRIDS, 1, seed=0)[2]
    assert fingerprint(dict(reversed(widths.items()))) == fingerprint(widths)


def test_choices_for_a_person_are_in_layer_order():
    choices = {block: (block.layer + (10 if block.kind == "ffn" else 0), None) for block in BLOCKS}
    widths = {"attention": [0, 1, 2, 3, 4, 5], "ffn": [10, 11, 12, 13, 14, 15]}
    assert by_kind(choices, "fp32") == (widths, {})
    lower = choices | {BLOCKS[3]: (11, "int8")}
    assert by_kind(lower, "fp32") == (widths, {"attention": ["fp32"] * 6, "ffn": ["fp32", "int8", *["fp32"] * 4]})
