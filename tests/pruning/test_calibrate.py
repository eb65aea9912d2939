import copy

import numpy as np
import pytest
import synthetic
import torch

from prune2deploy.errors import InputError
from prune2deploy.models.family import heads_of
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.statistics import calibrate
from prune2deploy.pruning.statistics.calibrate import fisher_information, mask_gradients
from prune2deploy.team import Team


def gradients_of(calibration, batches=None):
    """[samples, units] per block."""
    everything = [calibration.samples.batch(list(range(len(calibration.samples))))]
    rows = list(mask_gradients(calibration, enumerate(everything if batches is None else batches), 1))
    return {block: torch.cat([row[block] for row in rows]) for block in calibration.blocks}


def exact(model):
    return copy.deepcopy(model).double()


def inputs_of(samples, index):
    """One sample alone, in float64."""
    inputs = samples.batch([index]).tensors()
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def loss_with_masks(model, samples, index, masks):
    """The loss of one sample with the columns of output projections scaled."""
    names = {id(module): name for name, module in model.named_modules()}
    replaced = {}
    for block, mask in masks.items():
        projection = output_projection(model, block)
        columns = mask.repeat_interleave(block.unit_size)
        replaced[names[id(projection)] + ".weight"] = projection.weight * columns[None, :]
    logits = torch.func.functional_call(model, replaced, (), inputs_of(samples, index)).logits[0]
    return torch.logsumexp(logits, 0) - logits[int(samples.labels[index])]


def test_gradients_are_those_of_scaled_columns(case):
    calibration = synthetic.calibration(case)
    found = gradients_of(calibration)
    model = exact(case.model)
    for index in (0, 1, len(case.samples) - 1):
        masks = {block: torch.ones(block.units, dtype=torch.float64, requires_grad=True) for block in calibration.blocks}
        wanted = torch.autograd.grad(loss_with_masks(model, case.samples, index, masks), list(masks.values()))
        for block, gradient in zip(masks, wanted, strict=True):
            assert gradient.abs().max() > 1e-4
            torch.testing.assert_close(found[block][index].double(), gradient, rtol=1e-3, atol=2e-5)


def test_gradients_are_central_differences(case):
    calibration = synthetic.calibration(case)
    found = gradients_of(calibration)
    model = exact(case.model)

    def difference(block, unit, step):
        losses = []
        for sign in (1, -1):
            mask = torch.ones(block.units, dtype=torch.float64)
            mask[unit] += sign * step
            losses.append(float(loss_with_masks(model, case.samples, 0, {block: mask})))
        return (losses[0] - losses[1]) / (2 * step)

    for block in calibration.blocks:
        unit = int(found[block][0].abs().argmax())
        # steps as large as that because the softmax inside stays in float32, and extrapolated because they are large
        wanted = (4 * difference(block, unit, 5e-3) - difference(block, unit, 1e-2)) / 3
        assert float(found[block][0, unit]) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_neighbours_and_padding_do_not_matter(case):
    calibration = synthetic.calibration(case)
    together = gradients_of(calibration)
    alone = gradients_of(calibration, [case.samples.batch([index]) for index in range(len(case.samples))])
    if case.family == "bert":
        lengths = {case.samples.tokens(index) for index in range(len(case.samples))}
        assert len(lengths) > 3
    for block in calibration.blocks:
        torch.testing.assert_close(together[block], alone[block], rtol=1e-4, atol=1e-5)


def test_fisher_is_the_mean_over_samples(case, monkeypatch):
    monkeypatch.setattr("prune2deploy.pruning.statistics.calibrate.BATCH", 5)  # more batches than one, the last not full
    calibration = synthetic.calibration(case)
    fisher = fisher_information(calibration)
    n = len(case.samples)
    assert n % 5
    for block, gradient in gradients_of(calibration).items():
        rows = gradient.double().numpy()
        matrix = sum(np.outer(row, row) for row in rows) / n
        scale = np.abs(matrix).max()
        np.testing.assert_allclose(fisher.diagonal[block], np.square(rows).sum(0) / n, rtol=1e-3, atol=1e-6 * scale)
        np.testing.assert_allclose(fisher.matrix[block], matrix, rtol=1e-3, atol=1e-5 * scale)
        np.testing.assert_allclose(fisher.matrix[block].diagonal(), fisher.diagonal[block], rtol=1e-4)


def test_the_model_is_as_before(case):
    calibration = synthetic.calibration(case)
    inputs = case.samples.batch([0, 1, 2]).tensors()
    before = case.model(**inputs).logits
    weights = {name: value.clone() for name, value in case.model.state_dict().items()}
    fisher_information(calibration)
    assert torch.equal(case.model(**inputs).logits, before)
    assert all(torch.equal(value, weights[name]) for name, value in case.model.state_dict().items())
    assert not any(output_projection(case.model, block)._forward_pre_hooks for block in calibration.blocks)


def test_hooks_go_when_the_pass_is_given_up(case):
    calibration = synthetic.calibration(case)
    passes = mask_gradients(calibration, enumerate(case.samples.batch([index]) for index in (0, 1)), 2)
    next(passes)
    assert all(output_projection(case.model, block)._forward_pre_hooks for block in calibration.blocks)
    passes.close()
    assert not any(output_projection(case.model, block)._forward_pre_hooks for block in calibration.blocks)


def test_a_loss_that_is_not_finite_is_refused(case):
    with torch.no_grad():
        case.model.classifier.bias[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        fisher_information(synthetic.calibration(case))


# cache


def forbid_forward(model):
    def fail(*args, **kwargs):
        raise AssertionError("the model was run")

    model.forward = fail


def same(left, right):
    return all((left.diagonal[block] == right.diagonal[block]).all() for block in left.diagonal) and all(
        (left.matrix[block] == right.matrix[block]).all() for block in left.matrix
    )


def test_the_second_call_reads_the_cache(case, tmp_path):
    calibration = synthetic.calibration(case, cache=tmp_path)
    first = fisher_information(calibration)
    forbid_forward(case.model)
    assert same(first, fisher_information(calibration))
    with pytest.raises(AssertionError, match="was run"):
        fisher_information(synthetic.calibration(case))


@pytest.mark.parametrize("harm", ["garbage", "truncated", "empty", "incomplete"])
def test_a_damaged_cache_is_made_again(case, tmp_path, harm):
    from safetensors.numpy import load_file, save_file

    calibration = synthetic.calibration(case, cache=tmp_path)
    first = fisher_information(calibration)
    (stored,) = tmp_path.iterdir()
    intact = stored.read_bytes()
    if harm == "incomplete":
        arrays = load_file(stored)
        arrays.pop(next(iter(arrays)))
        save_file(arrays, stored)
    else:
        stored.write_bytes({"garbage": b"no tensors at all", "truncated": intact[:-100], "empty": b""}[harm])
    assert same(first, fisher_information(calibration))
    assert stored.read_bytes() == intact


# labels


def test_labels_are_drawn_where_there_are_none(case):
    samples = synthetic.unlabelled(case.samples)
    drawn = synthetic.calibration(case, samples)
    first, second = fisher_information(drawn), fisher_information(drawn)
    assert same(first, second)
    others = [fisher_information(synthetic.calibration(case, samples, seed=seed)) for seed in (1, 2, 3)]
    assert not all(same(first, other) for other in others)


def test_drawn_labels_follow_the_models_own_predictions(case):
    with torch.no_grad():  # sure of class 2: the labels drawn are all 2
        case.model.classifier.weight.zero_()
        case.model.classifier.weight[2, 0] = 1e-3
        case.model.classifier.bias.copy_(torch.tensor([0.0, 0.0, 25.0]))
    labelled = case.samples.select(list(range(len(case.samples))))
    labelled.labels = np.full(len(labelled), 2, dtype=np.int64)
    wanted = gradients_of(synthetic.calibration(case, labelled))
    found = gradients_of(synthetic.calibration(case, synthetic.unlabelled(case.samples)))
    assert all(torch.equal(found[block], wanted[block]) for block in wanted)
    labelled.labels = np.zeros(len(labelled), dtype=np.int64)
    other = gradients_of(synthetic.calibration(case, labelled))
    assert not any(torch.equal(found[block], other[block]) for block in wanted)


# batches


def test_every_sample_is_in_one_batch_of_one_process(case, monkeypatch):
    calibration = synthetic.calibration(case)
    alone = calibration.batches()
    assert sorted(index for _, indices in alone for index in indices) == list(range(len(case.samples)))
    monkeypatch.setattr(calibrate, "BATCH", 3)
    several = calibration.batches()
    shares = []
    for rank in range(3):
        monkeypatch.setattr(calibrate, "team", lambda rank=rank: Team(rank, 3))
        shares.extend(calibration.batches())
    assert sorted(shares) == several
    assert len(several) > len(alone)


def test_batches_leave_few_activations_behind(case, monkeypatch):
    monkeypatch.setattr(calibrate, "ACTIVATIONS", 1)
    assert all(len(indices) == 1 for _, indices in synthetic.calibration(case).batches())


def test_gradients_whose_squares_are_none_are_refused(case, tmp_path):
    calibration = synthetic.calibration(case, cache=tmp_path)
    calibration.model = copy.deepcopy(case.model)
    with torch.no_grad():
        heads_of(calibration.model)[0].weight.mul_(1e25)  # its answers and its losses are finite
    with pytest.raises(InputError, match="the dense model's gradients are too large on some samples"):
        fisher_information(calibration)
    assert list(tmp_path.iterdir()) == []
