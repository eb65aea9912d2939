import itertools

import numpy as np
import pytest

from prune2deploy.pruning.recovery.rearrange import SMALLEST_GAIN, rearrange


def semi_definite(units, seed, rank=None, dtype=np.float64):
    vectors = np.random.default_rng(seed).normal(size=(units, rank or units + 3))
    return (vectors @ vectors.T).astype(dtype)


def objective(fisher, kept):
    dropped = np.ones(len(fisher))
    dropped[list(kept)] = 0
    return float(dropped @ fisher.astype(np.float64) @ dropped)


def best_swap(fisher, kept):
    """The lowest objective that one swap reaches."""
    dropped = set(range(len(fisher))) - set(kept)
    return min(objective(fisher, (set(kept) - {out}) | {back}) for out, back in itertools.product(kept, dropped))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("seed", range(10))
def test_no_single_swap_improves_on_the_result(seed, rank, dtype):
    fisher = semi_definite(12, seed, rank, dtype)
    start = np.random.default_rng(100 + seed).choice(12, size=5, replace=False).tolist()
    kept = rearrange(fisher, start)
    noise = 2e-5 * fisher.trace() if dtype == np.float32 else 1e-9
    assert best_swap(fisher, kept) >= objective(fisher, kept) * (1 - SMALLEST_GAIN) - noise
    assert objective(fisher, kept) <= objective(fisher, start) + noise


def test_most_random_starts_are_improved():
    improved = 0
    for seed in range(10):
        fisher = semi_definite(12, seed)
        start = list(range(5))
        improved += objective(fisher, rearrange(fisher, start)) < 0.9 * objective(fisher, start)
    assert improved >= 8


@pytest.mark.parametrize("count", [1, 2, 7, 11])
def test_as_many_units_stay_as_before(count):
    kept = rearrange(semi_definite(12, 1), range(count))
    assert len(kept) == len(set(kept)) == count
    assert kept == sorted(kept)
    assert all(0 <= unit < 12 and type(unit) is int for unit in kept)


def test_full_and_empty_masks_are_left_alone():
    fisher = semi_definite(6, 0)
    assert rearrange(fisher, range(6)) == [0, 1, 2, 3, 4, 5]
    assert rearrange(fisher, []) == []


def test_one_swap_away_from_the_best():
    # units 0 and 1 cancel, so do 2 and 3; of the diagonal alone, 0 and 2 would go
    vectors = np.array([[1.0, 0], [-1.1, 0], [0, 1.0], [0, -1.1]])
    fisher = vectors @ vectors.T
    assert objective(fisher, [1, 3]) == pytest.approx(2)
    kept = rearrange(fisher, [1, 3])
    assert kept in ([0, 1], [2, 3])
    assert objective(fisher, kept) == pytest.approx(0.01)


def test_of_a_diagonal_matrix_the_largest_stay():
    diagonal = np.array([3.0, 9.0, 1.0, 7.0, 5.0])
    assert rearrange(np.diag(diagonal), [2, 0]) == [1, 3]


def test_a_mask_that_costs_nothing_is_left_alone():
    fisher = np.zeros((5, 5), dtype=np.float32)
    assert rearrange(fisher, [4, 2]) == [2, 4]


def test_the_matrix_is_not_changed():
    fisher = semi_definite(8, 3)
    before = fisher.copy()
    rearrange(fisher, [0, 1])
    assert (fisher == before).all()
