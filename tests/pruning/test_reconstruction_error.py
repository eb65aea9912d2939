import copy

import numpy as np
import pytest
import synthetic
import tiny
import torch
from tiny import layers_of

from prune2deploy.models.surgery import mask_
from prune2deploy.pruning.statistics.reconstruction_error import Reconstruction


@pytest.fixture
def pruned(case):
    model = copy.deepcopy(case.model)
    mask_(model, tiny.plan_keeping(model, tiny.PLANS["ragged"]))
    return model


def last_layer(model, samples):
    """The last layer's output, sample by sample."""
    found = []
    handle = layers_of(model)[-1].register_forward_hook(lambda module, args, output: found.append(output[0].double()))
    with torch.no_grad():
        for index in range(len(samples)):
            model(**samples.batch([index]).tensors())
    handle.remove()
    return torch.cat(found).numpy()


def test_reconstruction_error_is_relative_to_the_variance(case, pruned):
    wanted, got = last_layer(case.model, case.samples), last_layer(pruned, case.samples)
    error = np.square(got - wanted).sum() / np.square(wanted - wanted.mean(0)).sum()
    assert error > 0.01
    assert Reconstruction(case.model, case.samples).error(pruned) == pytest.approx(error, rel=1e-4)


def test_the_dense_model_has_no_error_and_unlabelled_samples_do(case, pruned):
    samples = synthetic.unlabelled(case.samples)
    reconstruction = Reconstruction(case.model, samples)
    assert reconstruction.error(copy.deepcopy(case.model)) == 0
    assert reconstruction.error(pruned) == Reconstruction(case.model, case.samples).error(pruned)
