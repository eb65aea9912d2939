import copy

import pytest
import torch
from torch import nn

from prune2deploy.models.projection import as_matrix, as_rows, like, rows_in, times

SAMPLES = 3
MODULES = {
    "linear": (nn.Linear(4, 6), (SAMPLES, 5, 4)),
    "linear on windows": (nn.Linear(4, 6), (SAMPLES * 4, 5, 4)),
    "pointwise": (nn.Conv2d(4, 6, 1), (SAMPLES, 4, 5, 7)),
    "padded": (nn.Conv2d(4, 6, 3, padding=1), (SAMPLES, 4, 5, 7)),
    "strided": (nn.Conv2d(4, 6, 3, 2, padding=1, bias=False), (SAMPLES, 4, 5, 8)),
    "dilated": (nn.Conv2d(4, 6, (3, 1), dilation=2), (SAMPLES, 4, 9, 8)),
}


@pytest.fixture(params=MODULES)
def seen(request):
    """(module, what goes in, what comes out)"""
    module, shape = MODULES[request.param]
    given = torch.randn(shape)
    with torch.no_grad():
        return module, given, module(given)


def test_rows_times_the_matrix_are_what_comes_out(seen):
    module, given, output = seen
    projection, rows = as_matrix(module), rows_in(module, given, SAMPLES)
    assert rows.shape[0] == SAMPLES
    assert (projection.out_features, projection.in_features) == tuple(projection.weight.shape) == (6, rows.shape[2])
    found = rows @ projection.weight.T + (0 if projection.bias is None else projection.bias)
    torch.testing.assert_close(found, as_rows(output, SAMPLES), rtol=1e-4, atol=1e-5)


def test_rows_take_the_shape_that_they_had(seen):
    *_, output = seen
    assert torch.equal(like(as_rows(output, SAMPLES), output), output)


def test_writing_into_the_matrix_changes_the_module(seen):
    module, given, output = seen
    module = copy.deepcopy(module)
    with torch.no_grad():
        as_matrix(module).weight.mul_(2)
        bias = as_rows(module(torch.zeros_like(given)), SAMPLES)
        twice = 2 * as_rows(output, SAMPLES) - bias
        torch.testing.assert_close(as_rows(module(given), SAMPLES), twice, rtol=1e-4, atol=1e-5)


def test_factors_are_those_of_columns_sample_by_sample(seen):
    module, given, _ = seen
    factors = torch.rand(SAMPLES, 4)
    rows = rows_in(module, given, SAMPLES)
    wanted = rows * factors.repeat_interleave(rows.shape[2] // 4, dim=1)[:, None]
    torch.testing.assert_close(rows_in(module, times(module, given, factors), SAMPLES), wanted)
