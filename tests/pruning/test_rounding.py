"""Rounding of weights against a plain form of the same rule, and what it loses against running the model."""

import copy
import functools

import numpy as np
import pytest
import synthetic
import torch

from prune2deploy.models.family import blocks_of
from prune2deploy.models.input_rounding import InputRounding, exact_inputs
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import linears_of, output_projection
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import mask_
from prune2deploy.precisions import FORMATS, grid_of
from prune2deploy.pruning.recovery.rounding import in_order, second_order
from prune2deploy.pruning.statistics.moments import moments_of, passes
from prune2deploy.pruning.statistics.rounding_loss import (
    coarse_losses,
    mean_curvatures,
    rounded_layer,
    rounding_losses,
)
from prune2deploy.pruning.statistics.streams import Streams

RNG = np.random.default_rng(0)


def correlated(inputs, rows=400):
    x = RNG.normal(size=(rows, inputs)) @ RNG.normal(size=(inputs, inputs))
    return x.T @ x / rows


def column_by_column(weight, moment, grid):
    """Optimal brain surgeon: after each column the others take over, and its row and column leave the inverse."""
    left, done = weight.astype(np.float64), np.empty(weight.shape)
    inverse = np.linalg.inv(moment + 1e-2 * np.trace(moment) / len(moment) * np.eye(len(moment)))
    for column in range(weight.shape[1]):
        one = slice(column, column + 1)
        done[:, one] = grid.nearest(left[:, one], one)
        error = (left[:, one] - done[:, one]) / inverse[column, column]
        left[:, column:] -= error * inverse[column, column:]
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return done


def error(weight, rounded, moment):
    return float(((rounded - weight) @ moment * (rounded - weight)).sum())


@pytest.mark.parametrize("precision", list(FORMATS))
@pytest.mark.parametrize("inputs", [7, 150])
def test_weights_are_rounded_as_the_plain_rule_rounds_them(inputs, precision):
    weight, moment = RNG.normal(size=(5, inputs)).astype(np.float32), correlated(inputs)
    grid = grid_of(weight, precision, False)
    found = second_order(weight, torch.from_numpy(moment.copy()), grid)
    wanted = column_by_column(weight, moment, grid)
    assert (np.abs(found - wanted) < 1e-5).mean() > 0.97  # what lies in the middle of two numbers may go either way
    assert error(weight, found, moment) == pytest.approx(error(weight, wanted, moment), rel=0.05)
    np.testing.assert_allclose(grid.nearest(found), found, atol=1e-5)
    if inputs > 100:  # of a few, there may be nothing to make good with
        assert error(weight, found, moment) < 0.7 * error(weight, grid.nearest(weight), moment)


def test_inputs_that_are_always_zero():
    weight = RNG.normal(size=(3, 6)).astype(np.float32)
    grid = grid_of(weight, "int8", False)
    moment = np.zeros((6, 6))
    assert np.isfinite(second_order(weight, torch.from_numpy(moment), grid)).all()


def planned(case, precisions):
    plan = Plan.of(
        signature_of(case.model.config), {block: range(block.units - block.units // 3) for block in blocks_of(case.model)},
        precisions,
    )  # fmt: skip
    pruned = copy.deepcopy(case.model)
    mask_(pruned, plan)
    return plan, pruned


def rounds(module):
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, InputRounding)]


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8", "int4-weights"])
def test_blocks_end_on_their_grids_and_the_others_make_good(case, precision):
    first, second, third, *_ = blocks_of(case.model)
    plan, pruned = planned(case, {second.key: precision})
    before = {block: output_projection(pruned, block).weight.clone() for block in (first, third)}
    streams = Streams(case.model, pruned, case.samples)
    found = dict(in_order(streams, plan, narrow=False))
    assert found[first] == found[third] == {}
    layer = pruned.get_submodule(second.root)
    assert set(found[second]) == {f"{second.root}.{path}" for path in linears_of(layer, second)}
    torch.testing.assert_close(output_projection(pruned, first).weight, before[first], rtol=0, atol=0)
    assert not torch.equal(output_projection(pruned, third).weight, before[third])
    kept = plan.units(second)
    last = output_projection(pruned, second)
    columns = [column for unit in kept for column in range(unit * second.unit_size, (unit + 1) * second.unit_size)]
    rounding = found[second][f"{second.root}.{second.output}"]
    stored = last.weight[:, columns].numpy()
    np.testing.assert_allclose(rounding.nearest(stored), stored, atol=1e-6)
    dropped = sorted(set(range(last.in_features)) - set(columns))
    assert not last.weight[:, dropped].any()
    for path, module in linears_of(layer, second).items():
        hooks = rounds(module)
        assert len(hooks) == int(FORMATS[precision].by_integers)
        rounding = found[second][f"{second.root}.{path}"]
        if precision == "int8":
            assert rounding.low <= 0 < rounding.high
            assert (hooks[0].low, hooks[0].high) == (rounding.low, rounding.high)
        else:
            assert (rounding.low, rounding.high) == (0.0, 0.0)


def test_re_fitting_brings_the_model_nearer_than_rounding_alone(case):
    plan, pruned = planned(case, {block.key: "int4-weights" for block in blocks_of(case.model)})
    plain = copy.deepcopy(pruned)
    for block in blocks_of(plain):
        for module in linears_of(plain.get_submodule(block.root), block).values():
            weight = module.weight.numpy()
            module.weight.copy_(torch.from_numpy(grid_of(weight, "int4-weights", False).nearest(weight)))
    for _ in in_order(Streams(case.model, pruned, case.samples), plan, narrow=False):
        pass
    inputs = case.samples.batch(range(len(case.samples))).tensors()
    with torch.no_grad():
        wanted, near, far = (model(**inputs).logits for model in (case.model, pruned, plain))
    assert (near - wanted).square().mean() < (far - wanted).square().mean()


def keep(given, path, module, args):
    given[path] = args[0]


@pytest.mark.parametrize("precision", ["int8-dynamic", "int4-weights"])
def test_what_rounding_loses_is_the_error_that_the_loss_sees(case, precision):
    calibration = synthetic.calibration(case)
    block = calibration.blocks[1]
    found = rounding_losses(calibration, [precision], narrow=False)
    total = 0.0
    for _, batch, passed in passes(calibration, calibration.batches()):
        [(_, gradients)] = passed[block]
        inputs = batch.tensors()
        outputs = []
        for lower in (False, True):
            model = copy.deepcopy(case.model)
            if lower:
                given = {}
                handles = [
                    module.register_forward_pre_hook(functools.partial(keep, given, path))
                    for path, module in linears_of(model.get_submodule(block.root), block).items()
                ]
                with torch.no_grad():
                    model(**inputs)
                for handle in handles:
                    handle.remove()
                owner, _, name = block.root.rpartition(".")
                layer = rounded_layer(model.get_submodule(block.root), block, precision, False, given)
                setattr(model.get_submodule(owner), name, layer)
            seen = []
            handle = model.get_submodule(f"{block.root}.{block.output}").register_forward_hook(
                lambda module, args, output, seen=seen: seen.append(output)
            )
            with torch.no_grad():
                model(**inputs)
            handle.remove()
            outputs.append(seen[0])
        priced = ((outputs[1] - outputs[0]).reshape(gradients.shape) * gradients).sum(-1)[batch.counted(gradients)]
        total += 0.5 * float(priced.detach().double().square().sum())
    assert found[block, precision] == pytest.approx(total / len(calibration.samples), rel=1e-3)


def test_fewer_bits_lose_more_by_either_price(case):
    calibration = synthetic.calibration(case)
    curvatures = mean_curvatures(moments_of(calibration).blocks)
    precisions = ["int8-weights", "int4-weights"]
    for losses in (
        rounding_losses(calibration, precisions, False), coarse_losses(calibration, curvatures, precisions, False)
    ):  # fmt: skip
        for block in calibration.blocks:
            assert 0 < 10 * losses[block, "int8-weights"] < losses[block, "int4-weights"]


def test_the_mean_curvature_is_that_of_the_kronecker_product(case):
    calibration = synthetic.calibration(case)
    moments = moments_of(calibration).blocks
    block = calibration.blocks[1]
    second = moments[block].covariance + np.outer(moments[block].mean, moments[block].mean)
    wanted = np.kron(moments[block].sensitivity, second).trace() / (len(second) * len(moments[block].sensitivity))
    assert mean_curvatures(moments)[block] == pytest.approx(wanted, rel=1e-4)


def test_a_rounded_model_without_rounded_inputs_is_the_same_but_for_them(case):
    plan, pruned = planned(case, {blocks_of(case.model)[0].key: "int8"})
    for _ in in_order(Streams(case.model, pruned, case.samples), plan, narrow=False):
        pass
    inputs = case.samples.batch([0, 1]).tensors()
    with torch.no_grad():
        rounded = pruned(**inputs).logits
        with exact_inputs(pruned):
            exact = pruned(**inputs).logits
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()
