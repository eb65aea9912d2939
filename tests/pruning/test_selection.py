import copy

import numpy as np
import pytest
import synthetic
import tiny
import torch
from tiny import layers_of

from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import mask_, shrunk_layer, write_back_
from prune2deploy.pruning.recovery.reconstruction import metric_of, reconstruct
from prune2deploy.pruning.recovery.selection import select_and_refit
from prune2deploy.pruning.statistics.moments import moments_of
from prune2deploy.pruning.statistics.reconstruction_error import Reconstruction
from prune2deploy.pruning.statistics.removal import removal_curve
from prune2deploy.pruning.statistics.streams import Streams


def half(model):
    return {block: block.units // 2 for block in blocks_of(model)}


def selected(case, widths):
    pruned = copy.deepcopy(case.model)
    moments = moments_of(synthetic.calibration(case))
    streams = Streams(case.model, pruned, case.samples, moments.weights)
    kept = {
        block: select_and_refit(streams, block, widths[block], moments.blocks[block].sensitivity)
        for block in streams.blocks()
    }
    return kept, pruned, moments


def test_the_first_block_is_the_weighted_regression_worked_out_by_hand(case):
    widths = half(case.model)
    kept, pruned, moments = selected(case, widths)
    first = blocks_of(case.model)[0]
    plain = Streams(case.model, case.model, case.samples)
    plain.enter(0)
    rows, wanted = [], []
    for batch in range(len(plain.places)):
        valid = plain.counted(first, batch)
        with torch.no_grad():
            seen = plain.through(layers_of(case.model)[0], first, batch)
        rows.append(seen["input"][valid].double().numpy())
        wanted.append(seen["output"][valid].double().numpy())
    order = [index for indices, _ in case.samples.batches(32) for index in indices]
    weight = np.concatenate([moments.weights[first][index][0] for index in order])
    x, y = np.concatenate(rows), np.concatenate(wanted)
    root = np.sqrt(weight / weight.sum())[:, None]
    x_mean, y_mean = (weight @ x) / weight.sum(), (weight @ y) / weight.sum()
    gram = ((x - x_mean) * root).T @ ((x - x_mean) * root)
    weight_of_first = output_projection(case.model, first).weight
    dense, sensitivity = weight_of_first.double().numpy(), torch.from_numpy(moments.blocks[first].sensitivity)
    curve = removal_curve(
        weight_of_first, torch.from_numpy(gram), sensitivity, first.unit_size, keep=widths[first]
    )
    assert kept[first] == curve.kept(widths[first])
    columns = columns_of(kept[first], first.unit_size).numpy()
    penalty = 1e-2 * np.trace(gram[np.ix_(columns, columns)]) / len(columns)
    design = np.vstack([(x - x_mean)[:, columns] * root, np.sqrt(penalty) * np.eye(len(columns))])
    target = np.vstack([(y - y_mean) * root, np.sqrt(penalty) * dense[:, columns].T])
    solution = np.linalg.lstsq(design, target, rcond=None)[0].T
    projection = output_projection(pruned, first)
    np.testing.assert_allclose(projection.weight[:, columns].numpy(), solution, rtol=1e-2, atol=1e-4)
    bias = y_mean - solution @ x_mean[columns]
    np.testing.assert_allclose(projection.bias.numpy(), bias, rtol=1e-2, atol=1e-4)


def test_it_is_nearer_to_the_dense_model_than_masking_the_same_units(case):
    kept, pruned, _ = selected(case, half(case.model))
    masked = copy.deepcopy(case.model)
    mask_(masked, Plan.of(tiny.signature_of(case.model), kept))
    judge = Reconstruction(case.model, case.samples)
    assert judge.error(pruned) < 0.7 * judge.error(masked)


def test_full_widths_leave_the_model_as_it_is(case):
    _, pruned, _ = selected(case, {block: block.units for block in blocks_of(case.model)})
    assert Reconstruction(case.model, case.samples).error(pruned) < 1e-5


def test_a_vanished_block_keeps_the_mean_of_what_it_put_out(case):
    blocks = blocks_of(case.model)
    kept, pruned, _ = selected(case, {**half(case.model), blocks[0]: 0})
    assert kept[blocks[0]] == []
    projection = output_projection(pruned, blocks[0])
    assert not projection.weight.any()
    assert projection.bias.abs().max() > 0


@pytest.mark.parametrize("name", ["ragged", "attention vanished", "ffn vanished"])
def test_reconstruction_lowers_the_error_and_touches_kept_units_only(case, name):
    plan = tiny.plan_keeping(case.model, tiny.PLANS[name])
    moments = moments_of(synthetic.calibration(case))
    pruned = copy.deepcopy(case.model)
    mask_(pruned, plan)
    before = copy.deepcopy(pruned)
    streams = Streams(case.model, pruned, case.samples, moments.weights)
    for block in streams.blocks():
        if plan.units(block):
            reconstruct(streams, block, plan, moments.blocks[block].sensitivity, 0)
    judge = Reconstruction(case.model, case.samples)
    assert judge.error(pruned) < 0.9 * judge.error(before)
    for block in blocks_of(case.model):
        dropped = columns_of(sorted(set(range(block.units)) - set(plan.units(block))), block.unit_size)
        assert not output_projection(pruned, block).weight[:, dropped].any()
    assert not any(parameter.requires_grad for parameter in pruned.parameters())
    changed = {
        name for name, weight in pruned.state_dict().items() if not torch.equal(weight, before.state_dict()[name])
    }
    assert changed
    assert not any("norm" in name.lower() or "embed" in name or "classifier" in name for name in changed)


def test_an_output_error_counts_by_its_fisher_information_and_by_its_size():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(200, 6)) * [3, 1, 1, 0.1, 0, 2]
    sensitivity = gradients.T @ gradients / len(gradients)
    errors = rng.normal(size=(4, 6))
    counted = ((errors @ metric_of(sensitivity).numpy()) * errors).sum(-1)
    mean_square_gradient = np.square(gradients).mean()
    for error, found in zip(errors, counted, strict=True):
        by_loss = np.square(gradients @ error).mean() / mean_square_gradient
        assert found == pytest.approx(0.2 * by_loss + 0.8 * error @ error, rel=1e-4)


def test_a_block_that_the_loss_does_not_see_is_still_reconstructed():
    torch.testing.assert_close(metric_of(np.zeros((3, 3))), torch.eye(3) * 0.8)


def test_a_shrunk_layer_written_back_is_the_masked_layer(case):
    plan = tiny.plan_keeping(case.model, tiny.PLANS["ragged"])
    masked = copy.deepcopy(case.model)
    mask_(masked, plan)
    own = [block for block in blocks_of(masked) if block.layer == 1]
    layer = layers_of(masked)[1]
    small = shrunk_layer(layer, {block: plan.units(block) for block in own})
    wanted = {name: weight.clone() for name, weight in layer.state_dict().items()}
    for block in own:
        if plan.units(block):
            write_back_(small, layer, block, plan.units(block))
    assert all(torch.equal(weight, wanted[name]) for name, weight in layer.state_dict().items())
    with torch.no_grad():
        for weight in small.parameters():
            weight.add_(1)
    for block in own:
        if kept := plan.units(block):
            write_back_(small, layer, block, kept)
            consumer = layer.get_submodule(block.output)
            columns = columns_of(kept, block.unit_size)
            name = block.output + ".weight"
            torch.testing.assert_close(consumer.weight[:, columns], wanted[name][:, columns] + 1)
