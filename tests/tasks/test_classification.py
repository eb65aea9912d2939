import numpy as np
import pytest
import torch


def random_logits(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, size=(6, 3)))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_losses_are_those_of_softened_predictions(case, temperature):
    logits, reference = random_logits(0), random_logits(1)
    found = case.task.distillation_losses(logits, reference, temperature)
    for row, (got, wanted) in enumerate(zip(logits.numpy(), reference.numpy(), strict=True)):
        q, p = (np.exp(values / temperature) / np.exp(values / temperature).sum() for values in (got, wanted))
        assert found[row] == pytest.approx(temperature**2 * (p * np.log(p / q)).sum())


def test_at_temperature_one_they_are_the_divergence(case):
    logits, reference = random_logits(2), random_logits(3)
    found = case.task.distillation_losses(logits, reference, 1.0).mean()
    assert found == pytest.approx(case.task.divergence(logits.numpy(), reference.numpy()))


def test_they_are_least_at_the_reference_and_have_a_gradient_elsewhere(case):
    reference = random_logits(4)
    for logits, moves in ((reference.clone(), False), (random_logits(5), True)):
        losses = case.task.distillation_losses(logits.requires_grad_(), reference, 2.0)
        (gradient,) = torch.autograd.grad(losses.sum(), [logits])
        assert (losses.min() > 1e-3) == moves
        assert (gradient.abs().max() > 1e-3) == moves


def test_probes_have_the_fisher_information_of_the_predictions_as_covariance(case):
    logits = random_logits(6)
    generator = torch.Generator().manual_seed(0)
    many = logits.expand(20_000, *logits.shape).reshape(-1, logits.shape[-1])
    draws = case.task.fisher_probe(many, generator).reshape(20_000, *logits.shape)
    p = logits.softmax(-1)
    wanted = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    found = torch.einsum("nsa,nsb->sab", draws, draws) / len(draws)
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)
