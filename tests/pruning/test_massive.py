"""Activations whose mean is a thousand times their spread, as decoders have: in float32, products hold the mean alone."""

import copy

import numpy as np
import pytest
import synthetic
import torch

from prune2deploy.models.family import blocks_of, layer_of
from prune2deploy.pruning.methods.ours import curve_of
from prune2deploy.pruning.statistics.block_statistics import Sums
from prune2deploy.pruning.statistics.moments import moments_of
from prune2deploy.pruning.statistics.streams import Streams

MEAN = 3000.0


@pytest.fixture
def massive(case):
    """The filters of the last FFN get a mean that is far from their spread; behind it no token differs much any more."""
    producer = {"bert": "intermediate.dense", "vit": "mlp.fc1"}[case.family]
    with torch.no_grad():
        layer_of(case.model, last_of(case)).get_submodule(producer).bias.add_(MEAN)
    return case


def last_of(case):
    return blocks_of(case.model)[-1]


def filters_of(case, block):
    """What goes into the output projection at every token, float64 [tokens, units]."""
    seen = []
    module = layer_of(case.model, block).get_submodule(block.output)
    handle = module.register_forward_hook(lambda module, args, output: seen.append(args[0][0].double()))
    with torch.no_grad():
        for index in range(len(case.samples)):
            case.model(**case.samples.batch([index]).tensors())
    handle.remove()
    return torch.cat(seen).numpy()


def test_covariances_are_those_of_float64(massive):
    found = moments_of(synthetic.calibration(massive)).blocks[last_of(massive)]
    x = filters_of(massive, last_of(massive))
    assert np.abs(x.mean(0)).min() > 300 * x.std(0).max()
    wanted = np.cov(x.T, bias=True)
    np.testing.assert_allclose(found.covariance, wanted, atol=1e-2 * np.abs(wanted).max())


def test_removal_never_comes_out_free_and_never_pays(massive):
    moments = moments_of(synthetic.calibration(massive))
    for block, found in moments.blocks.items():
        loss = curve_of(massive.model, block, found).loss
        assert (np.diff(loss) <= 0).all()
        assert loss[-2] > 0


def test_walks_see_the_spread(massive):
    streams = Streams(massive.model, copy.deepcopy(massive.model), massive.samples)
    for block in streams.blocks():
        found = streams.statistics(block, list(range(block.units)))
    gram, _ = found.centred()
    wanted = np.cov(filters_of(massive, block).T, bias=True)
    np.testing.assert_allclose(gram.numpy(), wanted, atol=2e-2 * np.abs(wanted).max())


def test_sums_are_what_they_were_before_the_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1000, 1, size=(400, 5)), rng.normal(-50, 2, size=(400, 3))
    x, y = x.astype(np.float32), y.astype(np.float32)
    weight = rng.uniform(0.3, 2, size=400).astype(np.float32)
    sums = Sums(5, 3, torch.device("cpu"))
    for rows in np.array_split(np.arange(400), 17):
        sums.add(*(torch.from_numpy(array[rows].copy()) for array in (x, y, weight)))
    found = sums.statistics()
    w, x, y = (array.astype(np.float64) for array in (weight, x, y))
    for got, wanted in (
        (found.x_sum, w @ x), (found.y_sum, w @ y), (found.xx, (x * w[:, None]).T @ x), (found.xy, (x * w[:, None]).T @ y),
    ):  # fmt: skip
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    gram, cross = found.centred()
    both = np.cov(np.hstack([x, y]).T, aweights=w, bias=True)
    np.testing.assert_allclose(gram, both[:5, :5], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(cross, both[:5, 5:], rtol=1e-3, atol=2e-3)
