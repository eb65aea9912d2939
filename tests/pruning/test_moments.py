import copy

import numpy as np
import pytest
import synthetic
import tiny
import torch

from prune2deploy.errors import InputError
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.statistics.moments import CACHE, TEMPERATURE, UNIFORM, moments_of


def sample_by_sample(calibration, block):
    """Inputs [tokens, k] of `block`, and per sample ∂logits/∂output [classes, tokens, d], one sample at a time."""
    model = copy.deepcopy(calibration.model).double()
    projection = output_projection(model, block)
    inputs, jacobians, probabilities = [], [], []
    for index in range(len(calibration.samples)):
        tensors = calibration.samples.batch([index]).tensors()
        tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
        seen = {}

        def hook(module, args, output, seen=seen):
            seen["x"], seen["y"] = args[0], output.requires_grad_() if not output.requires_grad else output

        handle = projection.register_forward_hook(hook)
        logits = model(**tensors).logits[0]
        handle.remove()
        inputs.append(seen["x"][0].detach().numpy())
        rows = [torch.autograd.grad(value, seen["y"], retain_graph=True)[0][0].numpy() for value in logits]
        jacobians.append(np.stack(rows))
        probabilities.append((logits / TEMPERATURE).softmax(-1).detach().numpy())
    return inputs, jacobians, probabilities


def test_inputs_are_averaged_over_the_tokens_of_every_sample(case):
    calibration = synthetic.calibration(case)
    found = moments_of(calibration)
    for block in calibration.blocks[:3]:
        x = np.concatenate(sample_by_sample(calibration, block)[0])
        np.testing.assert_allclose(found.blocks[block].mean, x.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.blocks[block].covariance, np.cov(x.T, bias=True), rtol=1e-3, atol=1e-4)


def test_sensitivity_is_the_fisher_information_of_the_softened_predictions_on_average(case):
    calibration = synthetic.calibration(case)
    block = calibration.blocks[2]
    _, jacobians, probabilities = sample_by_sample(calibration, block)
    wanted = 0.0
    for jacobian, p in zip(jacobians, probabilities, strict=True):
        fisher = np.diag(p) - np.outer(p, p)
        wanted = wanted + np.einsum("ab,atd,bte->de", fisher, jacobian, jacobian) / len(jacobians)
    draws = []
    for seed in range(60):
        calibration.seed = seed
        draws.append(moments_of(calibration).blocks[block].sensitivity)
    error = np.abs(np.mean(draws, 0) - wanted).max() / np.abs(wanted).max()
    alone = np.median([np.abs(draw - wanted).max() for draw in draws]) / np.abs(wanted).max()
    assert error < 0.1
    assert error < alone


def test_weights_follow_the_gradient_of_each_token(case):
    calibration = synthetic.calibration(case)
    found = moments_of(calibration)
    lengths = [calibration.samples.tokens(index) for index in range(len(calibration.samples))]
    assert list(found.weights) == calibration.blocks
    for of_samples in found.weights.values():
        for weights, length in zip(of_samples, lengths, strict=True):
            assert weights.shape == (1, weights.shape[1] if length is None else length)
        everything = np.concatenate(of_samples, axis=1)
        np.testing.assert_allclose(everything.mean(), 1, rtol=1e-4)
        assert everything.min() >= UNIFORM * 0.999
    last = calibration.blocks[-1]  # the head reads the first token alone, and nothing mixes tokens behind this block
    rows = [weights[0] for weights in found.weights[last]]
    assert all(row[0] > UNIFORM and np.allclose(row[1:], UNIFORM) for row in rows)


def test_labels_play_no_part(case):
    labelled = moments_of(synthetic.calibration(case))
    unlabelled = moments_of(synthetic.calibration(case, synthetic.unlabelled(case.samples)))
    for block, found in labelled.blocks.items():
        np.testing.assert_array_equal(found.sensitivity, unlabelled.blocks[block].sensitivity)


def test_the_cache_gives_the_same_and_a_damaged_or_older_one_is_made_again(case, tmp_path, monkeypatch):
    calibration = synthetic.calibration(case)
    calibration.cache = tmp_path
    first = moments_of(calibration)
    stored = {path: path.read_bytes() for path in (tmp_path / CACHE).iterdir()}
    assert len(stored) == len(calibration.blocks) + 1

    def same(other):
        for block, found in first.blocks.items():
            for name in ("mean", "covariance", "sensitivity"):
                np.testing.assert_array_equal(getattr(found, name), getattr(other.blocks[block], name))
        assert list(first.weights) == list(other.weights)
        for block, weights in first.weights.items():
            for one, two in zip(weights, other.weights[block], strict=True):
                np.testing.assert_array_equal(one, two)

    same(moments_of(calibration))
    for path, content in stored.items():
        path.write_bytes(content[:-100])
        same(moments_of(calibration))
        assert path.read_bytes() == content
        path.unlink()
        same(moments_of(calibration))
        assert path.read_bytes() == content
    with monkeypatch.context() as older:
        older.setattr("prune2deploy.pruning.statistics.moments.TEMPERATURE", 1.0)
        sharp = moments_of(calibration)
    assert any(
        not np.array_equal(found.sensitivity, sharp.blocks[block].sensitivity) for block, found in first.blocks.items()
    )
    same(moments_of(calibration))


def test_a_model_without_finite_outputs_is_refused(case):
    calibration = synthetic.calibration(case)
    broken = copy.deepcopy(calibration.model)
    with torch.no_grad():
        output_projection(broken, calibration.blocks[0]).weight.fill_(float("nan"))
    calibration.model = broken
    with pytest.raises(InputError, match="not finite"):
        moments_of(calibration)


def test_what_comes_into_a_block_is_too_large_to_square(case, tmp_path):
    calibration = synthetic.calibration(case, cache=tmp_path)
    block = next(block for block in calibration.blocks if block.kind == "ffn")
    calibration.model = copy.deepcopy(case.model)
    linears = [module for module in tiny.layers_of(calibration.model)[0].modules() if isinstance(module, torch.nn.Linear)]
    first = next(linear for linear in linears if linear.out_features == block.units)
    with torch.no_grad():
        first.weight.mul_(1e20)
        output_projection(calibration.model, block).weight.mul_(1e-20)
    with pytest.raises(InputError, match=rf"what comes into {block} of the dense model, .*, is too large on some samples"):
        moments_of(calibration)
    assert list(tmp_path.iterdir()) == []
