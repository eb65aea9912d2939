"""The search over profiles of widths, with each method that has it."""

import copy

import numpy as np
import pytest
import synthetic
import tiny
import torch
from said import divergence, logits_of

import prune2deploy.pruning.methods.ziplm as ziplm
import prune2deploy.pruning.search.profile_search as profile_search
from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.methods.ours import OursMethod
from prune2deploy.pruning.methods.ziplm import ZipLmMethod
from prune2deploy.pruning.search.costs import LatencyCosts
from prune2deploy.pruning.search.knapsack import choose_widths
from prune2deploy.pruning.search.profile_search import CalibrationLoss
from prune2deploy.pruning.statistics.removal import DAMPING

TRIALS = 14


@pytest.fixture(params=["ziplm", "ours"])
def method(request, case, monkeypatch):
    monkeypatch.setattr(ziplm, "TRIALS", TRIALS)
    calibration = synthetic.calibration(case)
    calibration.effort = TRIALS
    return {"ziplm": ZipLmMethod, "ours": OursMethod}[request.param](calibration)


@pytest.fixture
def costs(method):
    return LatencyCosts(synthetic.latency_table(method.signature))


def loss_by(method):
    return CalibrationLoss(method.calibration, method.profiles.stitch)


def test_the_loss_is_that_of_the_model_that_is_stitched_together(case, method):
    loss_of = loss_by(method)
    dense = logits_of(case.model, case.task, case.samples)
    for name in ("ragged", "layer vanished", "ragged"):
        plan = tiny.plan_keeping(case.model, tiny.PLANS[name])
        stitched = copy.deepcopy(case.model)
        for block in blocks_of(case.model):
            if plan.width(block) < block.units:
                method.profiles.stitch(stitched, block, plan.units(block))
        outputs = logits_of(stitched, case.task, case.samples)
        assert loss_of(plan) == pytest.approx(divergence(case.task, outputs, dense), rel=1e-3)
    assert len(loss_of.known) == 2


def test_judged_on_a_fixed_part_of_the_samples(case, method, monkeypatch):
    monkeypatch.setattr(profile_search, "SAMPLES", 5)
    first, again = loss_by(method), loss_by(method)
    assert len(first.samples) == 5
    assert first.samples.digest() == again.samples.digest()


@pytest.fixture
def judged(monkeypatch):
    """[(plan, loss)] of everything that was judged."""
    seen = []
    judge = CalibrationLoss.__call__

    def judging(self, plan):
        seen.append((plan, judge(self, plan)))
        return seen[-1][1]

    monkeypatch.setattr(CalibrationLoss, "__call__", judging)
    return seen


def test_the_best_of_all_that_was_judged_is_chosen(method, costs, judged):
    budget = 0.6 * costs.table.dense_ms
    plan = method.search(costs, budget)
    assert len(judged) == 1 + TRIALS
    losses = {tuple(tried.kept.values()): loss for tried, loss in judged}
    assert len(losses) > 5
    assert losses[tuple(plan.kept.values())] == min(losses.values())


def test_the_first_judged_is_the_knapsack_over_the_curves_themselves(method, costs, judged):
    budget = 0.5 * costs.table.dense_ms
    method.search(costs, budget)
    curves = method.profiles.curves
    assert judged[0][0].widths(curves) == choose_widths(curves, costs, budget)


def test_nearby_budgets_share_their_coefficients(case, method, costs, judged):
    budget = 0.6 * costs.table.dense_ms
    first = method.search(costs, budget)
    near = method.search(costs, 0.93 * budget)
    assert len(judged) == 1 + TRIALS
    blocks = blocks_of(case.model)
    assert costs.total(near.widths(blocks)) <= 0.93 * budget < costs.total(first.widths(blocks))
    assert method.search(costs, budget) == first
    method.search(costs, 0.8 * budget)
    assert len(judged) == 2 * (1 + TRIALS)
    method.search(synthetic.flop_costs_of(case.model, case.samples), 0.8 * budget)
    assert len(judged) == 3 * (1 + TRIALS)


def test_the_dense_model_is_left_as_it_is(case, method, costs):
    before = copy.deepcopy(case.model.state_dict())
    method.search(costs, 0.5 * costs.table.dense_ms)
    assert all(torch.equal(weight, before[name]) for name, weight in case.model.state_dict().items())


def test_without_effort_the_knapsack_has_the_last_word(case, judged):
    method = OursMethod(synthetic.calibration(case))
    costs = LatencyCosts(synthetic.latency_table(method.signature))
    budget = 0.5 * costs.table.dense_ms
    assert method.search(costs, budget).widths(method.importance) == choose_widths(method.importance, costs, budget)
    assert judged == []
    assert all(found.covariance.size == 0 for found in method.moments.blocks.values())


def test_what_ours_judges_are_centred_least_squares_on_dense_inputs(case):
    calibration = synthetic.calibration(case)
    calibration.effort = TRIALS
    method = OursMethod(calibration)
    plan = tiny.plan_keeping(case.model, tiny.PLANS["ffn vanished"])
    stitched = copy.deepcopy(case.model)
    for block in blocks_of(case.model):
        found = method.moments.blocks[block]
        method.profiles.stitch(stitched, block, plan.units(block))
        columns = columns_of(plan.units(block), block.unit_size).numpy()
        dense, projection = output_projection(case.model, block), output_projection(stitched, block)
        weight, mean = dense.weight.double().numpy(), found.mean.astype(np.float64)
        gram = found.covariance.astype(np.float64)
        gram += DAMPING * np.trace(gram) / len(gram) * np.eye(len(gram))
        wanted = np.linalg.pinv(gram[np.ix_(columns, columns)]) @ gram[columns] @ weight.T
        bias = dense.bias.double().numpy() + weight @ mean - wanted.T @ mean[columns]
        np.testing.assert_allclose(projection.weight.numpy()[:, columns], wanted.T, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(projection.bias.numpy(), bias, rtol=1e-3, atol=1e-5)
        gone = np.delete(projection.weight.numpy(), columns, axis=1)
        assert not gone.any()
