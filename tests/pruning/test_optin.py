import copy

import numpy as np
import pytest
import synthetic
import torch

import prune2deploy.pruning.methods.optin as optin
from prune2deploy.errors import UnreachableBudgetError
from prune2deploy.models.block import columns_of
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection
from prune2deploy.pruning.methods.kwon import global_search
from prune2deploy.pruning.methods.optin import TEMPERATURE, OptinMethod, Trajectory, trajectory_scores, typical
from prune2deploy.pruning.search.costs import LatencyCosts
from prune2deploy.pruning.statistics.lengths import lengths_of


def watched(model, samples, index):
    """(what each layer's FFN puts out, [tokens, d]; logits) of one sample alone."""
    outputs, handles = [], []
    for block in (block for block in blocks_of(model) if block.kind == "ffn"):
        handles.append(output_projection(model, block).register_forward_hook(lambda m, args, out: outputs.append(out[0])))
    inputs = samples.batch([index]).tensors()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    logits = model(**inputs).logits[0]
    for handle in handles:
        handle.remove()
    return outputs, logits


def run(model, samples):
    runs = [watched(model, samples, index) for index in range(len(samples))]
    return [torch.cat(layer).numpy() for layer in zip(*(outputs for outputs, _ in runs), strict=True)], [
        logits.numpy() for _, logits in runs
    ]


def cosines(x):
    unit = x / np.sqrt(np.square(x).sum(1, keepdims=True))
    return unit @ unit.T


def departure(case, samples, block, unit):
    """In float64, by whole runs of a model without the unit, over all tokens."""
    dense, without = copy.deepcopy(case.model).double(), copy.deepcopy(case.model).double()
    output_projection(without, block).weight[:, columns_of([unit], block.unit_size)] = 0
    (wanted, reference), (got, logits) = run(dense, samples), run(without, samples)
    last = len(wanted) - 1
    later = [layer for layer in range(len(wanted)) if layer > block.layer or layer == block.layer == last]
    distance = sum(np.square(cosines(got[layer]) - cosines(wanted[layer])).sum() for layer in later)
    divergence = 0.0
    for found, dense_logits in zip(logits, reference, strict=True):
        q, p = (np.exp(values / TEMPERATURE) / np.exp(values / TEMPERATURE).sum() for values in (found, dense_logits))
        divergence += TEMPERATURE**2 * (p * np.log(p / q)).sum()
    return distance, divergence


def test_departures_are_those_of_whole_runs_without_the_unit(case):
    samples = case.samples.select([0, 1, 2, 5])  # padded where they are texts
    trajectory = Trajectory(synthetic.calibration(case), samples)
    for block in blocks_of(case.model):
        for unit in (0, block.units - 1):
            distance, divergence = departure(case, samples, block, unit)
            assert trajectory.departure(block, unit) == pytest.approx((distance, divergence), rel=5e-3, abs=1e-7)
            assert distance > 1e-6
    assert len(trajectory.compared) == lengths_of(case.model, samples).sum()


def test_only_some_of_many_tokens_are_compared_and_none_is_padding(case, monkeypatch):
    monkeypatch.setattr(optin, "COMPARED", 9)
    samples = case.samples.select([0, 1, 2, 5])
    trajectory = Trajectory(synthetic.calibration(case), samples)
    valid = samples.batch([0, 1, 2, 3]).valid
    assert len(set(trajectory.compared.tolist())) == 9
    assert valid is None or valid.ravel()[trajectory.compared.numpy()].all()
    assert {matrix.shape for matrix in trajectory.similarities.values()} == {(9, 9)}
    again = Trajectory(synthetic.calibration(case), samples)
    assert torch.equal(again.compared, trajectory.compared)


def test_the_batch_is_of_typical_length_and_no_larger_than_needed(case, monkeypatch):
    lengths = lengths_of(case.model, case.samples)
    monkeypatch.setattr(optin, "TOKENS", 40)
    chosen = typical(synthetic.calibration(case))
    found = lengths_of(case.model, chosen)
    assert found.sum() >= 40
    assert len(found) == optin.SAMPLES or found[1:].sum() < 40
    assert found.min() >= np.quantile(lengths, 0.2)
    assert found.max() <= np.quantile(lengths, 0.8)
    monkeypatch.setattr(optin, "TOKENS", 10**6)
    assert len(typical(synthetic.calibration(case))) == len(case.samples)


def test_one_factor_balances_distance_and_divergence(case, monkeypatch):
    rng = np.random.default_rng(0)
    blocks = blocks_of(case.model)
    given = {block: rng.exponential(size=(block.units, 2)) * [1, 1e-3] for block in blocks}
    monkeypatch.setattr(Trajectory, "departure", lambda self, block, unit: tuple(given[block][unit]))
    found = trajectory_scores(synthetic.calibration(case))
    distances, divergences = (sum(rows[:, column].sum() for rows in given.values()) for column in (0, 1))
    for block, rows in given.items():
        wanted = rows[:, 0] + rows[:, 1] * 0.1 * distances / divergences
        wanted = wanted * (0.5 if block.kind == "attention" else 1) * (0.5 if block.layer == 2 else 1)
        np.testing.assert_allclose(found[block], wanted)


def test_the_search_is_kwons_and_there_is_no_recovery(case):
    method = OptinMethod(synthetic.calibration(case))
    costs = LatencyCosts(synthetic.latency_table(method.signature, fixed=2.5))
    budget = 0.5 * costs.table.dense_ms
    plan = method.search(costs, budget)
    kept = global_search(method.scores, costs, budget)
    assert {block: plan.units(block) for block in kept} == {block: sorted(units) for block, units in kept.items()}
    assert method.steps(costs, budget) == []
    with pytest.raises(UnreachableBudgetError, match=r"2\.5 ms"):
        method.search(costs, 2.4)


def test_the_model_is_left_as_it_was(case):
    OptinMethod(synthetic.calibration(case))
    for module in case.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
