import copy

import numpy as np
import pytest
import tiny
import torch
from synthetic import statistics

from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import mask_
from prune2deploy.progress import Progress
from prune2deploy.pruning.recovery.tuning import RIDGE, scales_of, tune_masks, walk, write_columns
from prune2deploy.pruning.statistics.reconstruction_error import Reconstruction
from prune2deploy.pruning.statistics.streams import Streams

TOKENS, UNITS, SIZE, WIDTH = 60, 5, 3, 7


def made_up(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, size=(TOKENS, UNITS * SIZE)) @ rng.normal(size=(UNITS * SIZE, UNITS * SIZE))
    weight = rng.normal(size=(WIDTH, UNITS * SIZE))
    y = x @ (weight * np.repeat(rng.uniform(0.2, 2, size=UNITS), SIZE)).T + rng.normal(4, 3, size=(TOKENS, WIDTH))
    return x, y, weight


def design(x, y, weight):
    """Rows: every token and output; columns: what each unit contributes, without its mean. And the target."""
    columns = [x[:, u * SIZE : (u + 1) * SIZE] @ weight[:, u * SIZE : (u + 1) * SIZE].T for u in range(UNITS)]
    return np.stack([(column - column.mean(0)).ravel() for column in columns], 1), (y - y.mean(0)).ravel()


def test_without_ridge_scales_are_least_squares():
    x, y, weight = made_up()
    matrix, target = design(x, y, weight)
    wanted, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    assert np.abs(wanted - 1).max() > 0.1
    np.testing.assert_allclose(scales_of(statistics(x, y), weight, SIZE, ridge=1e-12), wanted, rtol=1e-6)


@pytest.mark.parametrize("ridge", [RIDGE, 1.0])
def test_the_ridge_pulls_toward_one_as_further_rows_would(ridge):
    x, y, weight = made_up(1)
    matrix, target = design(x, y, weight)
    pull = np.sqrt(ridge * np.square(matrix).sum() / UNITS)
    augmented = np.vstack([matrix, pull * np.eye(UNITS)])
    wanted, *_ = np.linalg.lstsq(augmented, np.append(target, np.full(UNITS, pull)), rcond=None)
    np.testing.assert_allclose(scales_of(statistics(x, y), weight, SIZE, ridge=ridge), wanted, rtol=1e-8)


def test_what_is_right_already_stays():
    x, _, weight = made_up()
    np.testing.assert_allclose(scales_of(statistics(x, x @ weight.T + 3), weight, SIZE), 1, rtol=1e-8)


def test_no_units_no_scales_and_dead_units_stay_at_one():
    x, y, weight = made_up()
    assert scales_of(statistics(x[:, :0], y), weight[:, :0], SIZE).shape == (0,)
    np.testing.assert_array_equal(scales_of(statistics(0 * x, y), weight, SIZE), 1)


def test_a_dead_unit_among_live_ones_stays_at_one():
    x, y, weight = made_up()
    x[:, :SIZE] = 0
    scales = scales_of(statistics(x, y), weight, SIZE)
    assert scales[0] == pytest.approx(1)
    assert np.abs(scales[1:] - 1).max() > 0.1


def test_the_bias_makes_the_mean_right():
    x, y, weight = made_up()
    projection = torch.nn.Linear(2 * UNITS * SIZE, WIDTH)
    before = projection.weight.detach().clone()
    columns = columns_of([0, 2, 3, 6, 9], SIZE)
    write_columns(projection, columns, torch.from_numpy(weight), statistics(x, y))
    got = x @ projection.weight.detach().double().numpy()[:, columns].T + projection.bias.detach().double().numpy()
    np.testing.assert_allclose(got.mean(0), y.mean(0), atol=1e-4)
    others = [c for c in range(2 * UNITS * SIZE) if c not in columns.tolist()]
    assert torch.equal(projection.weight[:, others], before[:, others])
    np.testing.assert_allclose(projection.weight.detach().numpy()[:, columns], weight, rtol=1e-6)


def test_columns_are_written_without_a_bias_too():
    x, y, weight = made_up()
    projection = torch.nn.Linear(UNITS * SIZE, WIDTH, bias=False)
    write_columns(projection, torch.arange(UNITS * SIZE), torch.from_numpy(weight), statistics(x, y))
    assert projection.bias is None
    np.testing.assert_allclose(projection.weight.detach().numpy(), weight, rtol=1e-6)


# on models


def masked(case, keep):
    plan = tiny.plan_keeping(case.model, keep)
    pruned = copy.deepcopy(case.model)
    mask_(pruned, plan)
    return plan, pruned


@pytest.mark.parametrize("name", ["ragged", "attention vanished", "ffn vanished", "layer vanished", "all vanished"])
def test_tuning_brings_the_model_nearer_to_the_dense_one(case, name):
    plan, pruned = masked(case, tiny.PLANS[name])
    reconstruction = Reconstruction(case.model, case.samples)
    before = reconstruction.error(pruned)
    tune_masks(case.model, pruned, plan, case.samples, Progress())
    assert reconstruction.error(pruned) < 0.95 * before


def test_dropped_units_stay_dropped_and_kept_ones_are_only_scaled(case):
    plan, pruned = masked(case, tiny.PLANS["ragged"])
    tune_masks(case.model, pruned, plan, case.samples, Progress())
    changed = 0
    for block in blocks_of(case.model):
        dense, tuned = (output_projection(model, block).weight.detach() for model in (case.model, pruned))
        for unit in range(block.units):
            columns = columns_of([unit], block.unit_size)
            if unit in plan.units(block):
                ratio = tuned[:, columns] / dense[:, columns]
                torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-3, atol=1e-5)
                changed += abs(float(ratio[0, 0]) - 1) > 0.01
            else:
                assert not tuned[:, columns].any()
    assert changed > 10


def test_a_model_with_nothing_pruned_stays_as_it_is(case):
    plan, pruned = masked(case, lambda block: block.units)
    tune_masks(case.model, pruned, plan, case.samples, Progress())
    for name, weight in pruned.state_dict().items():
        torch.testing.assert_close(weight, case.model.state_dict()[name], rtol=1e-3, atol=1e-3)


def output_of(model, block, samples, index):
    found = []
    handle = output_projection(model, block).register_forward_hook(lambda module, args, output: found.append(output))
    model(**samples.batch([index]).tensors())
    handle.remove()
    return found[0]


def squared_error(case, pruned, block):
    """Of the output of `block`, whose predecessors are dense, over real tokens."""
    total = 0.0
    for index in range(len(case.samples)):
        dense, got = (output_of(model, block, case.samples, index) for model in (case.model, pruned))
        total += float((dense - got).double().square().sum())
    return total


@pytest.mark.parametrize("index", [0, 3, 5])
def test_the_block_is_nearer_to_the_dense_one_than_with_any_other_scales(case, index):
    chosen = blocks_of(case.model)[index]
    plan, pruned = masked(case, lambda block: block.units // 2 if block == chosen else block.units)
    before = squared_error(case, pruned, chosen)
    tune_masks(case.model, pruned, plan, case.samples, Progress())
    tuned = squared_error(case, pruned, chosen)
    assert tuned < 0.9 * before
    with torch.no_grad():  # the bias is at its optimum: any step away from it is worse
        output_projection(pruned, chosen).bias.add_(0.05)
    assert squared_error(case, pruned, chosen) > tuned


def test_a_vanished_block_is_left_with_its_mean_target(case):
    plan, pruned = masked(case, tiny.PLANS["attention vanished"])
    vanished = next(block for block in blocks_of(case.model) if (block.layer, block.kind) == (1, "attention"))
    wanted = {}

    def solve(block, kept, found, projection):
        if block == vanished:
            wanted["mean"] = (found.y_sum / found.n).numpy()

    walk(case.model, copy.deepcopy(pruned), plan, case.samples, solve, Progress(), "looking")
    first = blocks_of(case.model)[0]
    for untouched in (block for block in blocks_of(case.model) if block.layer == 0):
        assert plan.width(untouched) < untouched.units  # so that the prefix matters

    streams = Streams(case.model, pruned, case.samples)
    tune_masks(case.model, pruned, plan, case.samples, Progress())
    streams.enter(first.layer)
    streams.enter(vanished.layer)
    found = streams.statistics(vanished, [])
    bias = output_projection(pruned, vanished).bias.detach().numpy()
    np.testing.assert_allclose(bias, found.y_sum / found.n, rtol=1e-4, atol=1e-4)
    assert np.abs(bias - wanted["mean"]).max() > 0.01  # what tuning left of layer 0 counts, not what masking left


def test_blocks_are_walked_in_forward_order(case):
    plan, pruned = masked(case, tiny.PLANS["ragged"])
    walked = []

    def solve(block, kept, found, projection):
        assert kept == plan.units(block)
        assert projection is output_projection(pruned, block)
        assert len(found.x_sum) == len(kept) * block.unit_size
        walked.append(block.key)

    walk(case.model, pruned, plan, case.samples, solve, Progress(), "looking")
    assert walked == ["0.attention", "0.ffn", "1.attention", "1.ffn", "2.attention", "2.ffn"]
