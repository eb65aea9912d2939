import numpy as np
import pytest
import torch

from prune2deploy.pruning.statistics.linear_algebra import STRIPE, add_square_, inverse_, mirror_, solve_


def symmetric(size, definite):
    half = torch.from_numpy(np.random.default_rng(size).normal(size=(size, size)))
    return half @ half.T + torch.eye(size) if definite else half + half.T


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_inverses_and_solutions_of_symmetric_matrices_definite_or_not(size, definite):
    matrix, right = symmetric(size, definite), torch.ones(size, 2, dtype=torch.float64)
    torch.testing.assert_close(matrix @ inverse_(matrix.clone()), torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(matrix @ solve_(matrix.clone(), right), right)


def test_a_singular_matrix_has_no_inverse():
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        inverse_(torch.zeros(3, 3, dtype=torch.float64))


def test_a_large_inverse_is_found_in_the_matrix_s_own_memory():
    matrix = symmetric(300, definite=True)
    inverse = inverse_(matrix)
    assert inverse.data_ptr() == matrix.data_ptr()


@pytest.mark.parametrize("size", [1, STRIPE - 1, STRIPE, STRIPE + 1, 2 * STRIPE, 2 * STRIPE + 5])
def test_squares_add_up_to_a_symmetric_matrix(size):
    rows = torch.from_numpy(np.random.default_rng(size).normal(size=(7, size)))
    total = torch.zeros(size, size, dtype=torch.float64)
    for part in (rows[:3], rows[3:]):
        add_square_(total, part)
    mirror_(total)
    torch.testing.assert_close(total, rows.T @ rows)
    assert torch.equal(total, total.T)
