import itertools

import numpy as np
import pytest
import synthetic
import tiny
import torch
from synthetic import blocks_in

import prune2deploy.pruning.methods.kwon as kwon
from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.methods.kwon import (
    KINDS,
    KwonMethod,
    LinearCost,
    fit_cost,
    global_search,
    lsmr_scales,
    mini_batch_fisher,
)
from prune2deploy.pruning.methods.method import State
from prune2deploy.pruning.search.costs import LatencyCosts
from prune2deploy.pruning.statistics.lengths import lengths_of

TINY = synthetic.signature(layers=2, heads=2, filters=4, hidden=8)
FFN = blocks_in(TINY)[1]


def flat_then_linear(base, threshold, slope, units):
    return {0: 0.0} | {width: base + slope * max(0, width - threshold) for width in range(1, units + 1)}


def staircase_costs(fixed=1.0):
    """A head or two filters come free with their block."""
    given = {"attention": flat_then_linear(1.0, 1, 0.7, 2), "ffn": flat_then_linear(0.8, 2, 0.3, 4)}
    return synthetic.GivenCosts(given, fixed)


def fitted_cost(costs, kept):
    total = costs.fixed
    for block, units in kept.items():
        fit = fit_cost(costs, block)
        total += fit.base + fit.slope * max(0, len(units) - fit.threshold) if units else 0.0
    return total


def score_of(scores, kept):
    return sum(float(scores[block][list(units)].sum()) for block, units in kept.items())


def best_of_structure(scores, costs, budget):
    """Try everything the search may return: which blocks stay, at their first units, and any of the further units."""
    fits = {block.kind: fit_cost(costs, block) for block in scores}
    order = {block: np.argsort(-score).tolist() for block, score in scores.items()}
    ranked = {kind: [block for block in scores if block.kind == kind] for kind in KINDS}
    for kind, blocks in ranked.items():
        blocks.sort(key=lambda b, kind=kind: -sum(scores[b][order[b][: max(1, fits[kind].threshold)]]))
    best = -np.inf
    for counts in itertools.product(*(range(len(ranked[kind]) + 1) for kind in KINDS)):
        stay = [b for kind, count in zip(KINDS, counts, strict=True) for b in ranked[kind][:count]]
        first = {b: order[b][: fits[b.kind].threshold] for b in stay}
        base = costs.fixed + sum(fits[b.kind].base for b in stay)
        further = [(b, unit) for b in stay for unit in order[b][fits[b.kind].threshold :]]
        for chosen in itertools.product((False, True), repeat=len(further)):
            extra = [entry for entry, taken in zip(further, chosen, strict=True) if taken]
            if base + sum(fits[b.kind].slope for b, _ in extra) <= budget + 1e-9:
                total = score_of(scores, first) + sum(scores[b][unit] for b, unit in extra)
                best = max(best, total)
    return best


# the search


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_search_finds_the_best_of_its_structure(seed, share):
    scores, costs = synthetic.random_scores(TINY, seed), staircase_costs()
    budget = 1.0 + share * (costs.total({block: block.units for block in scores}) - 1.0)
    kept = global_search(scores, costs, budget)
    assert fitted_cost(costs, kept) <= budget + 1e-9
    assert score_of(scores, kept) == pytest.approx(max(best_of_structure(scores, costs, budget), 0))


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_search_in_flops_finds_the_best_of_all_subsets(seed, budget):
    scores, costs = synthetic.random_scores(TINY, seed), synthetic.flop_costs(TINY, 5.0)
    units = [(block, unit) for block in scores for unit in range(block.units)]
    price = np.array([costs.per_unit[block] for block, _ in units])
    worth = np.array([scores[block][unit] for block, unit in units])
    subsets = np.array(list(itertools.product((0, 1), repeat=len(units))))
    best = (subsets @ worth)[subsets @ price <= budget + 1e-9].max()
    kept = global_search(scores, costs, budget)
    assert costs.total({block: len(chosen) for block, chosen in kept.items()}) <= budget + 1e-9
    assert score_of(scores, kept) == pytest.approx(best)


def test_dropped_blocks_keep_nothing_and_others_their_free_units():
    dropped = 0
    for seed, budget in itertools.product(range(6), (2.0, 2.9, 3.6)):
        scores, costs = synthetic.random_scores(TINY, seed), staircase_costs()
        for block, units in global_search(scores, costs, budget).items():
            assert len(units) == len(set(units))
            assert not units or len(units) >= fit_cost(costs, block).threshold
            best = np.argsort(-scores[block], kind="stable")[: len(units)]
            assert set(units) == set(best.tolist())
            dropped += not units
    assert dropped > 10


def test_a_larger_budget_keeps_more():
    scores, costs = synthetic.random_scores(TINY, 0), staircase_costs()
    worth = [score_of(scores, global_search(scores, costs, budget)) for budget in np.linspace(1, 7.2, 25)]
    assert worth == sorted(worth)
    assert worth[0] == 0
    assert worth[-1] == pytest.approx(sum(score.sum() for score in scores.values()))
    assert len(set(worth)) > 8


def test_nothing_fits_below_the_fixed_part():
    assert global_search(synthetic.random_scores(TINY, 0), staircase_costs(fixed=2.0), 1.9) is None


def test_search_says_what_is_reachable(case):
    signature = tiny.signature_of(case.model)
    costs = LatencyCosts(synthetic.latency_table(signature, fixed=2.5))
    with pytest.raises(UnreachableBudgetError, match=r"2\.5 ms") as caught:
        KwonMethod(synthetic.calibration(case)).search(costs, 2.4)
    assert caught.value.reachable == 2.5


# the fitted cost


@pytest.mark.parametrize(("base", "threshold", "slope"), [(1.5, 3, 0.25), (0.4, 1, 0.1), (2.0, 7, 1.0)])
def test_an_exactly_flat_then_linear_cost_is_recovered(base, threshold, slope):
    costs = synthetic.GivenCosts({"ffn": flat_then_linear(base, threshold, slope, 10)})
    found = fit_cost(costs, FFN)
    assert found.threshold == threshold
    assert (found.base, found.slope) == pytest.approx((base, slope))


def test_a_noisy_cost_is_fitted_as_well_as_by_any_other_threshold():
    rng = np.random.default_rng(0)
    exact = flat_then_linear(1.0, 4, 0.5, 12)
    costs = synthetic.GivenCosts({"ffn": {width: cost + (width > 0) * 0.1 * rng.normal() for width, cost in exact.items()}})
    widths = np.arange(1, 13)
    values = np.array([costs.block(FFN, int(width)) for width in widths])

    def error(fit):
        return np.square(fit.base + fit.slope * np.maximum(0, widths - fit.threshold) - values).sum()

    found = fit_cost(costs, FFN)
    for threshold in range(1, 12):
        slope, base = np.polyfit(np.maximum(0, widths - threshold), values, 1)
        assert error(found) <= error(LinearCost(base, threshold, slope)) + 1e-9


def test_flops_are_linear_from_the_first_unit():
    costs = synthetic.flop_costs(TINY, 5.0)
    assert fit_cost(costs, FFN) == LinearCost(0.0, 0, costs.block(FFN, 1))


# statistics and scales


def test_fisher_is_of_mini_batch_means(case, monkeypatch):
    from prune2deploy.pruning.statistics.calibrate import mask_gradients

    monkeypatch.setattr(kwon, "MINI_BATCH", 5)
    calibration = synthetic.calibration(case, seed=3)
    fisher = mini_batch_fisher(calibration)
    n = len(case.samples)
    order = np.random.default_rng(3).permutation(n)
    (rows,) = mask_gradients(calibration, [(0, case.samples.batch(order.tolist()))], 1)
    assert n % 5
    for block, gradient in rows.items():
        means = [gradient[start : start + 5].numpy().mean(0) for start in range(0, n, 5)]
        wanted = sum(np.outer(mean, mean) for mean in means)
        np.testing.assert_allclose(fisher[block], wanted, rtol=1e-3, atol=1e-5 * wanted.max())


@pytest.mark.parametrize("kind", KINDS)
def test_lsmr_solves_the_damped_normal_equations(kind):
    size = 3 if kind == "attention" else 1
    block, units, width, n = synthetic.block(kind, 8, size), 4, 6, 40
    rng = np.random.default_rng(0)
    x, weight = rng.normal(0.3, 0.3, size=(n, units * size)), rng.normal(0, 0.3, size=(width, units * size))
    bias, y = rng.normal(size=width), rng.normal(size=(n, width))
    columns = [x[:, u * size : (u + 1) * size] @ weight[:, u * size : (u + 1) * size].T for u in range(units)]
    design = np.stack([column.ravel() for column in columns], 1)
    residual = (y - bias).ravel() - design.sum(1)
    if kind == "attention":
        design = np.column_stack([design, np.ones(len(design))])
    normal, right = design.T @ design, design.T @ residual
    solution = np.linalg.solve(normal.T @ normal + np.eye(len(normal)), normal.T @ right)
    found = lsmr_scales(synthetic.statistics(x, y), weight, bias, block)
    assert found.shape == (units,)
    assert np.abs(found - 1).max() > 0.1
    np.testing.assert_allclose(found, 1 + solution[:units], rtol=1e-3, atol=1e-3)


# tuning


def pruned(case, keep=tiny.PLANS["ragged"]):
    method = KwonMethod(synthetic.calibration(case))
    plan = tiny.plan_keeping(case.model, keep)
    costs = synthetic.flop_costs_of(case.model, case.samples)
    return method, State(plan, method.masked(plan)), costs


def ratio(case, state, block):
    """What the kept columns of `block` were multiplied by, one number where it is one."""
    columns = columns_of(state.plan.units(block), block.unit_size)
    dense, tuned = (output_projection(model, block).weight[:, columns] for model in (case.model, state.model))
    ratios = tuned / dense
    assert float(ratios.max() - ratios.min()) < 1e-4
    return round(float(ratios.mean()), 3)


def test_a_refused_block_is_named_and_tuning_goes_on(case, monkeypatch):
    seen = {}

    def scales(statistics, weight, bias, block):
        units = weight.shape[1] // block.unit_size
        seen[block.key] = statistics.n
        return np.full(units, -11.0 if block.key == "1.attention" else 1.5)

    monkeypatch.setattr(kwon, "lsmr_scales", scales)
    method, state, costs = pruned(case)
    name, tune = method.steps(costs, 0.5)[-1]
    tuned = tune(state)
    assert name == "mask tuning"
    (note,) = tuned.notes
    assert "layer 1 attention" in note
    assert "11.0" in note
    ratios = {block.key: ratio(case, tuned, block) for block in blocks_of(case.model)}
    assert ratios == {"0.attention": 1, "0.ffn": 1.5, "1.attention": 1, "1.ffn": 1.5, "2.attention": 1.5, "2.ffn": 1.5}
    tokens = int(lengths_of(case.model, case.samples).sum())
    assert seen == dict.fromkeys(["0.ffn", "1.attention", "1.ffn", "2.attention"], tokens) | {"2.ffn": len(case.samples)}


def test_vanished_blocks_are_passed_over(case):
    method, state, costs = pruned(case, tiny.PLANS["layer vanished"])
    tuned = method.steps(costs, 0.5)[-1][1](state)
    for block in blocks_of(case.model)[:2]:
        assert not output_projection(tuned.model, block).weight.any()
    assert torch.isfinite(tuned.model(**case.samples.batch([0, 1]).tensors()).logits).all()


def test_the_teacher_is_pruned_half_as_much(case, monkeypatch):
    method, _, costs = pruned(case)
    budgets = []
    search = method.search
    monkeypatch.setattr(method, "search", lambda costs, budget: budgets.append(budget) or search(costs, budget))
    names = [name for name, _ in method.steps(costs, 0.25)]
    assert names == ["rearrangement", "mask tuning"]
    assert budgets == pytest.approx([0.5])


def test_rearrangement_keeps_the_widths_and_masks_the_rest(case):
    method, state, costs = pruned(case)
    better = method.steps(costs, 0.5)[0][1](state)
    blocks = blocks_of(case.model)
    assert better.plan.widths(blocks) == state.plan.widths(blocks)
    assert better.plan != state.plan
    for block in blocks:
        alive = output_projection(better.model, block).weight.reshape(-1, block.units, block.unit_size).abs().sum((0, 2))
        assert alive.nonzero().flatten().tolist() == better.plan.units(block)
