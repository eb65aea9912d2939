"""What holds of every registered method, on every family."""

import copy

import pytest
import synthetic
import torch
from said import logits_of

import prune2deploy.pruning.methods.ziplm as ziplm
from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import shrink_
from prune2deploy.pruning.methods.method import State
from prune2deploy.pruning.methods.registry import METHODS
from prune2deploy.pruning.search.costs import LatencyCosts


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    monkeypatch.setattr(ziplm, "TRIALS", 10)


@pytest.fixture(params=METHODS)
def method(request, case):
    return METHODS[request.param](synthetic.calibration(case))


def table_costs(method):
    return LatencyCosts(synthetic.latency_table(method.signature, fixed=2.5))


def stages_of(method, costs, budget):
    """The state after the search and after every step."""
    plan = method.search(costs, budget)
    states = [State(plan, method.masked(plan))]
    for _, step in method.steps(costs, budget):
        last = State(states[-1].plan, copy.deepcopy(states[-1].model))
        states.append(step(last))
    return states


def test_the_budget_is_kept_and_used(case, method):
    costs = table_costs(method)
    flops = synthetic.flop_costs_of(case.model, case.samples)
    for each, budget in [(costs, 0.5 * costs.table.dense_ms), (costs, 0.8 * costs.table.dense_ms), (flops, 0.4)]:
        total = each.total(method.search(each, budget).widths(blocks_of(case.model)))
        assert 0.8 * budget < total <= budget * (1 + 1e-9)


def test_below_the_fixed_part_nothing_is_found_and_at_it_every_block_vanishes(case, method):
    costs = table_costs(method)
    with pytest.raises(UnreachableBudgetError, match=r"2\.5 ms"):
        method.search(costs, 2.4)
    assert set(method.search(costs, 2.5).widths(blocks_of(case.model)).values()) == {0}


@pytest.mark.parametrize("share", [0.7, 0.45])
def test_steps_keep_the_widths_and_leave_a_model_that_shrinks(case, method, share):
    costs = table_costs(method)
    blocks = blocks_of(case.model)
    before = {name: weight.clone() for name, weight in case.model.state_dict().items()}
    states = stages_of(method, costs, share * costs.table.dense_ms)
    for state in states:
        assert state.plan.widths(blocks) == states[0].plan.widths(blocks)
        for block in blocks:
            weight = output_projection(state.model, block).weight.reshape(-1, block.units, block.unit_size)
            alive = weight.abs().sum((0, 2)).nonzero().flatten().tolist()
            assert alive == state.plan.units(block)
        said = logits_of(state.model, case.task, case.samples)
        shrink_(state.model, state.plan)
        torch.testing.assert_close(logits_of(state.model, case.task, case.samples), said, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(weight, before[name]) for name, weight in case.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())


def test_the_same_again_is_the_same(case, method):
    costs = table_costs(method)
    budget = 0.5 * costs.table.dense_ms
    first, again = (stages_of(each, costs, budget) for each in (method, type(method)(synthetic.calibration(case))))
    for one, other in zip(first, again, strict=True):
        assert one.plan == other.plan
        for name, weight in one.model.state_dict().items():
            assert torch.equal(weight, other.model.state_dict()[name])


def test_no_method_needs_labels(case, method):
    unlabelled = type(method)(synthetic.calibration(case, synthetic.unlabelled(case.samples)))
    costs = table_costs(method)
    plan = unlabelled.search(costs, 0.5 * costs.table.dense_ms)
    assert costs.total(plan.widths(blocks_of(case.model))) <= 0.5 * costs.table.dense_ms + 1e-9
    if not method.reads_labels:
        assert plan == method.search(costs, 0.5 * costs.table.dense_ms)
