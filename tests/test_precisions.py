"""The grids that numbers are rounded to, against the ONNX reference and against every other grid."""

import numpy as np
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from prune2deploy.models.input_rounding import InputRounding, exact_inputs, round_inputs_, rounded
from prune2deploy.precisions import (
    FORMATS,
    INPUT_STEPS,
    Rounding,
    grid_of,
    grouped,
    input_grid,
    levels_of,
    range_of,
)

RNG = np.random.default_rng(0)


def by_the_reference(values):
    """What ONNX's DynamicQuantizeLinear makes of `values`, multiplied out again."""
    info = [helper.make_tensor_value_info(name, kind, None) for name, kind in (("x", 1), ("y", 2), ("s", 1), ("z", 2))]
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    whole, scale, zero = ReferenceEvaluator(model).run(None, {"x": values})
    assert whole.dtype == np.uint8
    return (whole.astype(np.float32) - zero) * scale, (np.float32(scale), int(zero))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (-1e-30, 1e-30), (-1e4, 1.0)])
def test_inputs_are_rounded_as_onnx_says(low, high):
    values = RNG.uniform(low, high, (5, 7)).astype(np.float32)
    values.flat[:2] = low, high
    wanted, grid = by_the_reference(values)
    assert input_grid(float(values.min()), float(values.max())) == grid
    got = rounded(torch.from_numpy(values), float(values.min()), float(values.max())).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-6 * max(abs(low), abs(high)))


def test_zero_stays_zero_and_what_is_beyond_the_range_is_cut():
    given = torch.tensor([0.0, -9.0, 9.0])
    zero, least, most = rounded(given, -1.0, 2.0).tolist()
    assert zero == 0
    assert (least, most) == (pytest.approx(-1.0, abs=0.01), pytest.approx(2.0, abs=0.01))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("precision", [name for name, form in FORMATS.items() if form.pieces == 1])
def test_weights_lie_on_the_grid(precision, narrow):
    weight = RNG.standard_t(3, (6, 70)).astype(np.float32)
    grid, form = grid_of(weight, precision, narrow), FORMATS[precision]
    near = grid.nearest(weight)
    whole = grouped(near, form.group) / grid.scale[..., None]
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)
    limit = {"int8-dynamic": 63 if narrow else 127, "int8": 63 if narrow else 127, "int8-weights": 127, "int4-weights": 7}
    assert np.abs(whole).max() <= limit[precision] + 1e-4
    np.testing.assert_array_equal(grouped(grid.codes(near), form.group), np.rint(whole))
    assert grid.scale.shape == (6, -(-70 // form.group) if form.group else 1)
    for columns in (slice(0, 1), slice(33, 40), slice(69, 70)):
        np.testing.assert_array_equal(grid.nearest(weight[:, columns], columns), near[:, columns])


@pytest.mark.parametrize("precision", ["int8", "int4-weights"])
def test_grids_are_no_worse_than_reaching_to_the_largest_weight(precision):
    weight = RNG.standard_t(3, (9, 64)).astype(np.float32)
    error, plain = (
        np.square(grouped(grid.nearest(weight) - weight, grid.format.group)).sum(-1)
        for grid in (grid_of(weight, precision, False), grid_of(weight, precision, False, (1.0,)))
    )
    assert (error <= plain * (1 + 1e-5)).all()
    if precision == "int4-weights":
        assert error.sum() < 0.9 * plain.sum()


def test_two_pieces_have_sixteen_levels_a_row():
    weight = RNG.standard_t(3, (5, 200)).astype(np.float32)
    grid = grid_of(weight, "pwlq4-weights", False)
    near = grid.nearest(weight)
    levels = levels_of(grid.scale)
    for row, of_row in zip(near, levels, strict=True):
        assert set(row) <= set(of_row)
        assert len(set(of_row)) == 16
    by_hand = np.abs(weight[:, :, None] - levels[:, None, :]).min(-1)  # the nearest of all levels
    np.testing.assert_allclose(np.abs(near - weight), by_hand, atol=1e-6)
    np.testing.assert_array_equal(grid.codes(near), grid.codes(weight))
    first, last = grid.scale.T
    assert ((first > 0) & (first < last)).all()
    steps = np.diff(levels[:, :8], axis=1)
    np.testing.assert_allclose(steps[:, :3], (first / 4)[:, None].repeat(3, 1), rtol=1e-4)
    np.testing.assert_allclose(steps[:, 4:], ((last - first) / 4)[:, None].repeat(3, 1), rtol=1e-4)


def test_two_pieces_are_nearer_than_one_where_few_weights_are_large():
    weight = RNG.laplace(size=(8, 384)).astype(np.float32)
    pieces = np.square(grid_of(weight, "pwlq4-weights", False).nearest(weight) - weight).sum()
    reach = np.abs(weight).max(1, keepdims=True)
    best = min(
        np.square(np.clip(np.rint(weight * 7 / (reach * share)), -7, 7) * reach * share / 7 - weight).sum()
        for share in np.linspace(1, 0.3, 40)
    )
    assert pieces < 0.8 * best


def test_rows_of_zeros_and_tiny_numbers():
    for weight in (np.zeros((2, 8)), np.full((2, 8), 1e-30)):
        for precision in FORMATS:
            grid = grid_of(weight, precision, False)
            assert np.isfinite(grid.scale).all()
            assert np.abs(grid.nearest(weight) - weight).max() <= 1e-30


def test_a_range_leaves_out_what_is_rare():
    values = np.concatenate([RNG.normal(size=1_000_000), [90.0]]).astype(np.float32)
    low, high = range_of(values)
    assert high < 60
    wide, tight = (
        np.square(rounded(torch.from_numpy(values), *limits).numpy() - values).sum()
        for limits in ((values.min(), 90.0), (low, high))
    )
    assert tight <= wide
    assert range_of(np.zeros(4)) == (0.0, 0.0)
    assert range_of(np.full(4, 2.0))[0] == 0.0


def test_layers_round_what_they_are_called_with_and_copies_do_too():
    import copy

    layer = torch.nn.Sequential(torch.nn.Linear(4, 2))
    given = torch.tensor([[0.1, -1.0, 2.0, 0.33]])
    plain = layer(given)
    round_inputs_(layer, {"0": Rounding("int8", np.ones((2, 1)), -1.0, 2.0)})
    by_hand = torch.nn.functional.linear(rounded(given, -1.0, 2.0), layer[0].weight, layer[0].bias)
    for each in (layer, copy.deepcopy(layer)):
        torch.testing.assert_close(each(given), by_hand)
    with exact_inputs(layer):
        torch.testing.assert_close(layer(given), plain)
    torch.testing.assert_close(layer(given), by_hand)


def test_dynamic_ranges_are_those_of_each_call():
    hook = InputRounding(Rounding("int8-dynamic", np.ones((1, 1))))
    for size in (1.0, 1000.0):
        given = size * torch.linspace(-1, 1, INPUT_STEPS)
        (got,) = hook(None, (given,))
        assert (got - given).abs().max() < 1.01 * size / INPUT_STEPS
