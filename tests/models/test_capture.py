import pytest
import torch
from tiny import layers_of

from prune2deploy.models.capture import resumed


def states(model, inputs):
    """What each layer is given."""
    call = capture(model, inputs)
    hidden = [call.hidden]
    with torch.no_grad():
        for layer in layers_of(model):
            hidden.append(call.run(layer, hidden[-1]))
    return hidden[:-1]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_resumed_at_any_layer_a_model_says_the_same(case):
    inputs = case.samples.batch([0, 1, 2]).tensors()
    wanted = logits(case.model, inputs)
    for layer, hidden in enumerate(states(case.model, inputs)):
        with resumed(case.model, layer, hidden):
            torch.testing.assert_close(logits(case.model, inputs), wanted)


def test_what_it_is_given_counts_and_what_is_skipped_does_not(case):
    inputs = case.samples.batch([0, 1, 2]).tensors()
    wanted, hidden = logits(case.model, inputs), states(case.model, inputs)[2]
    with torch.no_grad():
        for weight in layers_of(case.model)[1].parameters():
            weight.mul_(3)
    with resumed(case.model, 2, hidden):
        torch.testing.assert_close(logits(case.model, inputs), wanted)
    with resumed(case.model, 2, hidden.flip(0)):
        assert (logits(case.model, inputs) - wanted).abs().max() > 1e-3


def test_afterwards_all_layers_run_again(case):
    inputs = case.samples.batch([0, 1]).tensors()
    wanted = logits(case.model, inputs)
    with pytest.raises(KeyError), resumed(case.model, 2, torch.zeros(1)):
        raise KeyError
    assert torch.equal(logits(case.model, inputs), wanted)
