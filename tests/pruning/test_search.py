import itertools

import numpy as np
import pytest
import synthetic
from synthetic import blocks_in

from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.pruning.search.costs import LatencyCosts, PlainCosts
from prune2deploy.pruning.search.knapsack import Choices, choose, choose_widths, knapsack
from prune2deploy.pruning.statistics.importance import fisher_importance


def random_case(seed):
    """Up to five blocks of up to four choices; costs are whole numbers, so that `budget` buckets divide them evenly."""
    rng = np.random.default_rng(seed)
    blocks = []
    for _ in range(rng.integers(1, 6)):
        count = int(rng.integers(1, 5))
        costs = rng.integers(0, 12, size=count)
        losses = rng.exponential(size=count)
        blocks.append(Choices(np.arange(count), costs.astype(float), losses))
    return blocks, int(rng.integers(1, 40))


def best_by_trying_all(blocks, budget):
    best = None
    for picks in itertools.product(*(range(len(block.costs)) for block in blocks)):
        if cost_of(blocks, picks) <= budget + 1e-9 and (best is None or loss_of(blocks, picks) < best):
            best = loss_of(blocks, picks)
    return best


def cost_of(blocks, picks):
    return sum(block.costs[pick] for block, pick in zip(blocks, picks, strict=True))


def loss_of(blocks, picks):
    return sum(block.losses[pick] for block, pick in zip(blocks, picks, strict=True))


@pytest.mark.parametrize("scale", [1.0, 0.037])
@pytest.mark.parametrize("seed", range(50))
def test_knapsack_finds_what_trying_everything_finds(seed, scale):
    blocks, budget = random_case(seed)
    scaled = [Choices(block.widths, scale * block.costs, block.losses) for block in blocks]
    picks = knapsack(scaled, scale * budget, buckets=budget)
    best = best_by_trying_all(blocks, budget)
    if best is None:
        assert picks is None
    else:
        assert cost_of(blocks, picks) <= budget
        assert loss_of(blocks, picks) == pytest.approx(best)


def test_random_cases_hold_both_outcomes():
    outcomes = {best_by_trying_all(*random_case(seed)) is None for seed in range(50)}
    assert outcomes == {True, False}


@pytest.mark.parametrize("buckets", [7, 50, 1000])
def test_coarse_buckets_never_exceed_the_budget(buckets):
    rng = np.random.default_rng(buckets)
    spent = []
    for _ in range(40):
        blocks = [Choices(np.arange(5), np.sort(rng.uniform(0, 3, size=5)), rng.exponential(size=5)) for _ in range(6)]
        budget = rng.uniform(1, 12)
        if picks := knapsack(blocks, budget, buckets=buckets):
            spent.append(cost_of(blocks, picks) / budget)
    assert len(spent) >= 5
    assert max(spent) <= 1 + 1e-9


def test_fine_buckets_come_within_a_hair_of_the_best():
    rng = np.random.default_rng(0)
    for _ in range(10):
        blocks = [Choices(np.arange(4), rng.uniform(0, 3, size=4), rng.exponential(size=4)) for _ in range(4)]
        picks = knapsack(blocks, 5.0)
        assert best_by_trying_all(blocks, 5.0) <= loss_of(blocks, picks) + 1e-12
        assert loss_of(blocks, picks) <= best_by_trying_all(blocks, 5.0 * (1 - 4 / 20_000)) + 1e-12


def test_knapsack_of_nothing_that_fits():
    block = Choices(np.arange(2), np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    assert knapsack([block, block], 1.9) is None
    assert knapsack([block, block], -0.1) is None
    assert knapsack([block, block], 2.0) == [0, 0]


def test_knapsack_with_a_budget_of_nothing_takes_what_is_free():
    block = Choices(np.arange(3), np.array([0.0, 1.0, 2.0]), np.array([5.0, 1.0, 0.0]))
    assert knapsack([block, block], 0.0) == [0, 0]


def test_knapsack_with_a_budget_of_nothing_and_slow_blocks():
    block = Choices(np.arange(2), np.array([0.0, 5000.0]), np.array([5.0, 0.0]))
    assert knapsack([block, block], 0.0) == [0, 0]


# widths


def costs_and_importance(seed=0, **table):
    signature = synthetic.signature(layers=3)
    costs = LatencyCosts(synthetic.latency_table(signature, **table))
    return costs, fisher_importance(synthetic.random_scores(signature, seed)), blocks_in(signature)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.95])
def test_only_widths_of_the_costs_are_chosen_and_the_budget_is_kept(share):
    costs, importance, blocks = costs_and_importance()
    budget = share * costs.table.dense_ms
    widths = choose_widths(importance, costs, budget)
    assert set(widths) == set(blocks)
    for block, width in widths.items():
        assert width in costs.widths(block)
    assert 0.9 * budget <= costs.total(widths) <= budget + 1e-9


def test_a_larger_budget_never_loses_more():
    costs, importance, _ = costs_and_importance(seed=4)
    losses = []
    for share in (0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0):
        widths = choose_widths(importance, costs, share * costs.table.dense_ms)
        losses.append(sum(importance[block].loss[width] for block, width in widths.items()))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_the_whole_model_where_the_budget_allows_it():
    costs, importance, blocks = costs_and_importance()
    widths = choose_widths(importance, costs, 1.001 * costs.table.dense_ms)
    assert widths == {block: block.units for block in blocks}


def test_what_matters_most_stays():
    signature = synthetic.signature()
    scores = synthetic.random_scores(signature, 0)
    precious = blocks_in(signature)[2]
    scores[precious] = scores[precious] + 1e6
    costs = LatencyCosts(synthetic.latency_table(signature))
    widths = choose_widths(fisher_importance(scores), costs, 0.6 * costs.table.dense_ms)
    assert widths[precious] == precious.units


def test_a_worthless_block_vanishes():
    signature = synthetic.signature()
    scores = synthetic.random_scores(signature, 0)
    worthless = blocks_in(signature)[1]
    scores[worthless] = scores[worthless] * 1e-9
    costs = LatencyCosts(synthetic.latency_table(signature))
    widths = choose_widths(fisher_importance(scores), costs, costs.table.dense_ms - 1.0 + 1e-3)  # the price of one FFN
    assert widths == {block: 0 if block == worthless else block.units for block in blocks_in(signature)}


def test_at_the_floor_every_block_vanishes():
    costs, importance, blocks = costs_and_importance(fixed=2.0)
    assert choose_widths(importance, costs, 2.0) == dict.fromkeys(blocks, 0)


def test_below_the_floor_the_error_names_what_is_reachable():
    costs, importance, _ = costs_and_importance(fixed=2.5)
    with pytest.raises(UnreachableBudgetError, match=r"2\.4 ms.*2\.5 ms") as caught:
        choose_widths(importance, costs, 2.4)
    assert caught.value.reachable == pytest.approx(2.5)


def test_reachable_counts_blocks_that_cannot_vanish():
    signature = synthetic.signature(layers=3, filters=2)
    costs = synthetic.GivenCosts({"attention": {1: 0.5, 4: 1.0}, "ffn": {0: 0.0, 2: 1.0}}, fixed=1.0)
    importance = fisher_importance(synthetic.random_scores(signature, 0))
    with pytest.raises(UnreachableBudgetError, match="pounds") as caught:
        choose_widths(importance, costs, 2.4)
    assert caught.value.reachable == pytest.approx(1.0 + 3 * 0.5)


def mixed_case(seed):
    """A few blocks, two of each kind, in up to three precisions; costs are whole numbers."""
    rng = np.random.default_rng(seed)
    signature = synthetic.signature(layers=2, heads=2, filters=3)
    sizes = {"attention": 2, "ffn": 3}
    grid = {
        kind: {width: int(rng.integers(1, 9)) if width else 0 for width in range(units + 1)} for kind, units in sizes.items()
    }
    lower = {
        kind: {name: {width: int(rng.integers(1, 6)) if width else 0 for width in (0, units)} for name in ("int8", "int4")}
        for kind, units in sizes.items() if rng.random() < 0.8
    }  # fmt: skip
    importance = fisher_importance(synthetic.random_scores(signature, seed))
    rounded = {(block, name): float(rng.exponential()) for block in importance for name in ("int8", "int4")}
    costs = synthetic.GivenCosts(grid, fixed=1.0, lower=lower, of_a_change=float(rng.integers(0, 3)))
    return importance, costs, rounded, rng.integers(3, 20) + 0.5


def total_loss(importance, rounded, chosen):
    return sum(
        importance[block].loss[width] + (rounded[block, lower] * width / block.units if lower else 0.0)
        for block, (width, lower) in chosen.items()
    )


def total_cost(costs, chosen):
    widths = {block: width for block, (width, _) in chosen.items()}
    return costs.total(widths, {block.key: lower for block, (_, lower) in chosen.items() if lower})


def best_mix(importance, costs, rounded, budget):
    offered = [
        [(width, lower if width else None) for lower in costs.precisions(block) for width in costs.widths(block, lower)]
        for block in importance
    ]
    best = None
    for picks in itertools.product(*offered):
        chosen = dict(zip(importance, picks, strict=True))
        if total_cost(costs, chosen) <= budget + 1e-9:
            loss = total_loss(importance, rounded, chosen)
            best = loss if best is None else min(best, loss)
    return best


@pytest.mark.parametrize("seed", range(25))
def test_widths_and_precisions_are_the_best_of_all(seed):
    importance, costs, rounded, budget = mixed_case(seed)
    chosen = choose(importance, costs, budget, rounded)
    assert total_cost(costs, chosen) <= budget + 1e-9
    assert total_loss(importance, rounded, chosen) == pytest.approx(best_mix(importance, costs, rounded, budget))
    assert all(lower is None for width, lower in chosen.values() if not width)


def test_a_change_that_costs_much_is_avoided():
    signature = synthetic.signature(layers=2, heads=1, filters=1)
    importance = fisher_importance(synthetic.random_scores(signature, 0))
    rounded = {(block, "int8"): 1e-6 * (1 + block.layer) for block in importance}
    grid, lower = {kind: {0: 0, 1: 4} for kind in ("attention", "ffn")}, {"attention": {"int8": {0: 0, 1: 2}}}
    free, dear = (synthetic.GivenCosts(grid, 0.0, lower, change) for change in (0.0, 1.5))
    assert [lower for _, lower in choose(importance, free, 14.1, rounded).values()] == ["int8", None, None, None]
    assert {lower for _, lower in choose(importance, dear, 16.1, rounded).values()} == {None}


def test_a_method_without_precisions_sees_the_first_that_a_block_has():
    table = synthetic.GivenCosts({"attention": {0: 0, 1: 4}, "ffn": {0: 0, 1: 4}}, 1.0, {"ffn": {"int8": {0: 0, 1: 2}}})
    table.precisions = lambda block: ["int8"] if block.kind == "ffn" else [None]
    seen = PlainCosts(table)
    first, second = blocks_in(synthetic.signature(layers=1, heads=1, filters=1))
    assert (seen.block(first, 1), seen.block(second, 1), seen.widths(second), seen.fixed) == (4, 2, [0, 1], 1.0)
