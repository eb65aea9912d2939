import pytest
import torch
from torch import nn

from prune2deploy.models.vanished import BiasOnly, PassThrough

SHAPES = [(3, 1), (3, 2), (1, 1), (1, 2), (7, 2)]  # of a convolution: taps, stride
SIDES = [(8, 8), (7, 8), (1, 5)]


def convolution(taps, stride, bias=True):
    return nn.Conv2d(4, 6, taps, stride, padding=taps // 2, bias=bias)


@pytest.mark.parametrize(("taps", "stride"), SHAPES)
@pytest.mark.parametrize("sides", SIDES)
def test_a_convolution_without_weights_leaves_its_bias_in_every_place(taps, stride, sides):
    module, hidden = convolution(taps, stride), torch.randn(2, 4, *sides)
    stand_in = BiasOnly(module, full=True)
    with torch.no_grad():
        module.weight.zero_()
        assert torch.equal(stand_in(hidden), module(hidden))


@pytest.mark.parametrize(("taps", "stride"), SHAPES)
@pytest.mark.parametrize("sides", SIDES)
def test_what_passes_through_has_the_places_that_the_convolution_looks_at(taps, stride, sides):
    module, hidden = convolution(taps, stride), torch.randn(2, 4, *sides)
    with torch.no_grad():
        middle = nn.Conv2d(4, 4, taps, stride, padding=taps // 2, bias=False, groups=4)
        middle.weight.zero_()
        middle.weight[:, :, taps // 2, taps // 2] = 1
        assert torch.equal(PassThrough(module)(hidden), middle(hidden))


def test_strides_of_all_convolutions_in_what_is_replaced_count():
    module, hidden = nn.Sequential(convolution(3, 2), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1, 2)), torch.randn(2, 4, 9, 8)
    passed = PassThrough(module)(hidden)
    assert passed.shape[2:] == module(hidden).shape[2:]
    assert torch.equal(passed, hidden[:, :, ::4, ::4])


@pytest.mark.parametrize("full", [False, True])
def test_a_projection_without_weights_leaves_its_bias_in_every_row(full):
    projection, hidden = nn.Linear(4, 6), torch.randn(2, 5, 4)
    put_out = BiasOnly(projection, full=full)(hidden)
    with torch.no_grad():
        projection.weight.zero_()
        assert torch.equal(put_out.expand(2, 5, 6), projection(hidden))
    assert put_out.shape == ((2, 5, 6) if full else (6,))


@pytest.mark.parametrize("projection", [nn.Linear(4, 6, bias=False), convolution(3, 2, bias=False)])
def test_without_a_bias_nothing_is_left(projection):
    stand_in = BiasOnly(projection)
    assert stand_in(torch.randn(2, 4, 4, 4)).tolist() == [0] * 6


def test_attention_that_vanished_answers_in_pairs():
    hidden = torch.randn(2, 5, 4)
    assert PassThrough(nn.Linear(4, 4), tuple_of=2)(hidden, attention_mask=None) == (hidden, None)
    put_out, weights = BiasOnly(nn.Linear(4, 6), tuple_of=2)(hidden, None)
    assert put_out.shape == (6,)
    assert weights is None


def test_the_bias_is_a_weight_of_the_stand_ins_own():
    projection = nn.Linear(4, 6)
    stand_in = BiasOnly(projection)
    before = stand_in.bias.detach().clone()
    with torch.no_grad():
        projection.bias.add_(1)
    assert torch.equal(stand_in.bias, before)
    assert list(stand_in.state_dict()) == ["bias"]
