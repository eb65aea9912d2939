import copy
import itertools

import numpy as np
import pytest
import synthetic
import tiny
import torch
from synthetic import blocks_in

import prune2deploy.pruning.methods.kprune as kprune
from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.methods.kprune import KPruneMethod, Price, least_squares, refit, threshold_widths
from prune2deploy.pruning.methods.method import State
from prune2deploy.pruning.search.costs import LatencyCosts
from prune2deploy.pruning.statistics import streams
from prune2deploy.pruning.statistics.lengths import lengths_of, thinned
from prune2deploy.pruning.statistics.reconstruction_error import Reconstruction

TINY = synthetic.signature(layers=2, heads=2, filters=4, hidden=8)
COSTS = synthetic.GivenCosts({"attention": {0: 0, 1: 1.0, 2: 1.7}, "ffn": {0: 0, 1: 0.8, 2: 0.8, 3: 1.1, 4: 1.4}})
PRICES = {block.curve: Price(COSTS, block) for block in blocks_in(TINY)}


# the threshold


def test_a_price_knows_what_comes_free():
    price = PRICES["ffn"]
    assert (price.free, price.unit) == (2, pytest.approx(0.3))
    assert price.of.tolist() == [0, 0.8, 0.8, 1.1, 1.4]
    assert price.widths(np.array([0, 1, 2, 3])).tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("room", [0.0, 0.5, 1.5, 2.6, 4.0, 5.9, 6.2])
@pytest.mark.parametrize("seed", range(4))
def test_the_lowest_threshold_that_keeps_to_the_room(seed, room):
    scores = synthetic.random_scores(TINY, seed)
    fitting = []
    for threshold in (-1.0, *sorted(itertools.chain(*scores.values()))):
        widths = {}
        for block, score in scores.items():
            above = sum(value > threshold for value in score)
            widths[block] = max(above, PRICES[block.kind].free) if above else 0
        if COSTS.total(widths) <= room:
            fitting.append(widths)
    assert threshold_widths(scores, PRICES, room) == fitting[0]


def test_where_everything_fits_everything_stays_and_without_room_nothing_does():
    scores = synthetic.random_scores(TINY, 0)
    assert threshold_widths(scores, PRICES, 6.2 + 1e-9) == {block: block.units for block in blocks_in(TINY)}
    assert threshold_widths(scores, PRICES, -1e-15) == dict.fromkeys(blocks_in(TINY), 0)


# the re-fit


def made_up(rank=6, tokens=60, width=5):
    rng = np.random.default_rng(0)
    x = rng.normal(1, 1, size=(tokens, rank)) @ rng.normal(size=(rank, 6))
    y, bias = rng.normal(4, 3, size=(tokens, width)), rng.normal(size=width)
    return x, y, bias, synthetic.statistics(x, y)


@pytest.mark.parametrize("rank", [6, 4])
def test_least_squares_with_the_bias_as_it_is(rank):
    x, y, bias, statistics = made_up(rank)
    wanted, *_ = np.linalg.lstsq(x, y - bias, rcond=1e-6)  # the shortest one where the rank is too small
    np.testing.assert_allclose(least_squares(statistics, bias), wanted.T, rtol=1e-5, atol=1e-8)


def test_dead_inputs_get_no_weight():
    x, y, bias, _ = made_up()
    x[:, 2:] = 0
    found = least_squares(synthetic.statistics(x, y), bias)
    assert not found[:, 2:].any()
    assert found[:, :2].all()
    assert not least_squares(synthetic.statistics(0 * x, y), bias).any()


def test_refit_writes_the_kept_columns_alone():
    *_, statistics = made_up()
    block, projection = synthetic.block("attention", 5, 2), torch.nn.Linear(10, 5)
    bias = projection.bias.detach().clone()
    refit(block, [0, 2, 4], statistics, projection)
    kept = columns_of([0, 2, 4], 2)
    wanted = least_squares(statistics, bias.double().numpy())
    np.testing.assert_allclose(projection.weight.detach()[:, kept].numpy(), wanted, rtol=1e-5)
    assert not projection.weight[:, columns_of([1, 3], 2)].any()
    assert torch.equal(projection.bias, bias)


def test_without_any_unit_nothing_is_left():
    _, y, _, _ = made_up()
    projection = torch.nn.Linear(6, 5)
    refit(synthetic.block("ffn", 6, 1), [], synthetic.statistics(y[:, :0], y), projection)
    assert not projection.weight.any()
    assert not projection.bias.any()


# on models


@pytest.fixture
def method(case):
    return KPruneMethod(synthetic.calibration(case))


@pytest.fixture
def costs(method):
    return LatencyCosts(synthetic.latency_table(method.signature))


def test_the_step_leaves_what_the_search_had_at_its_end(case, method, costs, monkeypatch):
    written = {}

    def watching(block, kept, statistics, projection):
        refit(block, kept, statistics, projection)
        written[block] = projection.weight.detach().clone()

    monkeypatch.setattr(kprune, "refit", watching)
    plan = method.search(costs, 0.5 * costs.table.dense_ms)
    searched = dict(written)
    ((name, step),) = method.steps(costs, 0.5 * costs.table.dense_ms)
    refitted = step(State(plan, method.masked(plan)))
    assert name == "sublayer-wise re-fit"
    for block in blocks_of(case.model):
        torch.testing.assert_close(output_projection(refitted.model, block).weight, searched[block])
    reconstruction = Reconstruction(case.model, case.samples)
    assert reconstruction.error(refitted.model) < reconstruction.error(method.masked(plan))


def test_each_sublayer_is_scored_on_what_those_below_became(case, method, costs, monkeypatch):
    seen = []
    measure = kprune.knowledge

    def watching(task, model, watched, hidden, blocks):
        seen.append((blocks, copy.deepcopy(model)))
        return measure(task, model, watched, hidden, blocks)

    monkeypatch.setattr(kprune, "knowledge", watching)
    plan = method.search(costs, 0.5 * costs.table.dense_ms)
    blocks = blocks_of(case.model)
    assert [above for above, _ in seen] == [blocks[index:] for index in range(len(blocks))]
    for index, (_, model) in enumerate(seen):
        for block in blocks:
            weight, dense = (output_projection(each, block).weight for each in (model, case.model))
            if block in blocks[index:]:
                assert torch.equal(weight, dense)
            else:
                alive = weight.reshape(-1, block.units, block.unit_size).abs().sum((0, 2)).nonzero().flatten()
                assert alive.tolist() == plan.units(block)
                assert not torch.equal(weight, dense)


def test_long_samples_meet_their_own_hidden_states_when_scored(case, method, costs, monkeypatch):
    monkeypatch.setattr(streams, "BATCH_TOKENS", 40)  # as many batches as long texts would make
    measure = kprune.knowledge
    sizes = []  # of the batches, as the first sublayer is scored

    def watching(task, model, watched, hidden, blocks):
        if not sizes:
            for entry, given in zip(watched, hidden, strict=True):
                own = case.model(**entry.batch.tensors(), output_hidden_states=True)
                sizes.append(len(given))
                torch.testing.assert_close(given, own.hidden_states[0])
                torch.testing.assert_close(entry.reference, {"logits": own.logits})
        return measure(task, model, watched, hidden, blocks)

    monkeypatch.setattr(kprune, "knowledge", watching)
    method.search(costs, 0.5 * costs.table.dense_ms)
    assert sum(sizes) == len(case.samples)
    assert max(sizes) < streams.BATCH


def test_the_best_by_score_over_cost_stay(case, method, costs, monkeypatch):
    seen = {}
    measure = kprune.knowledge

    def watching(task, model, watched, hidden, blocks):
        scores = measure(task, model, watched, hidden, blocks)
        seen[blocks[0]] = scores
        return scores

    monkeypatch.setattr(kprune, "knowledge", watching)
    budget = 0.5 * costs.table.dense_ms
    plan = method.search(costs, budget)
    units = {"attention": 0.3, "ffn": 1 / 64}  # milliseconds of a head and of a filter in the synthetic table
    first = blocks_of(case.model)[0]
    kept, scores = plan.units(first), seen[first]
    ratio = {block: score / units[block.kind] for block, score in scores.items()}
    dropped = np.delete(ratio[first], kept)
    threshold = max(dropped, default=-np.inf)
    assert min(ratio[first][kept], default=np.inf) > threshold
    widths = {block: int((score > threshold).sum()) for block, score in ratio.items()}
    assert costs.total(widths) >= budget - 0.5  # the threshold is global: at this block's it is nearly used up


def test_a_removed_block_takes_its_bias_along(case, method, costs):
    plan = tiny.plan_keeping(case.model, tiny.PLANS["layer vanished"])
    masked = method.masked(plan)
    refitted = method.steps(costs, 3.0)[0][1](State(plan, copy.deepcopy(masked))).model
    for model in (masked, refitted):
        for block in blocks_of(case.model):
            assert bool(output_projection(model, block).bias.any()) == bool(plan.units(block))


def test_samples_are_thinned_out_evenly(case):
    total = int(lengths_of(case.model, case.samples).sum())
    assert thinned(case.model, case.samples, total) == list(range(len(case.samples)))
    half = thinned(case.model, case.samples, total // 2)
    assert len(half) in (len(case.samples) // 2 - 1, len(case.samples) // 2)
    assert set(np.diff(half)) <= {1, 2, 3}
    assert len(thinned(case.model, case.samples, 1)) == 1
