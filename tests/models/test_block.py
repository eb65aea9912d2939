import pytest

from prune2deploy.models.block import Cut, columns_of, size_of_heads


@pytest.mark.parametrize(
    ("per_unit", "kept", "slices"),
    [
        ((1,), [0, 2], [0, 2]),
        ((2,), [0, 2], [0, 1, 4, 5]),
        ((2, 2, 2), [1], [2, 3, 8, 9, 14, 15]),
        ((2, 1), [0, 2], [0, 1, 4, 5, 6, 8]),
        ((1, 1), [], []),
        ((1, 3), [0, 1, 2], list(range(12))),
    ],
)
def test_a_unit_has_its_slices_in_every_section_of_a_fused_axis(per_unit, kept, slices):
    assert Cut("fused", per_unit).slices(kept, units=3).tolist() == slices


def test_columns_of_units_lie_side_by_side():
    assert columns_of([2, 0], 3).tolist() == [6, 7, 8, 0, 1, 2]
    assert columns_of([], 3).tolist() == []


class Config:
    def __init__(self, head_dim=None):
        self.head_dim = head_dim


@pytest.mark.parametrize(
    ("head_dim", "hidden", "heads", "problem"),
    [(None, 32, 5, "5 heads of hidden_size 32 / 5"), (16, 32, 4, "4 heads of 16"), (None, 32, 0, "must be 1 or more")],
)
def test_heads_that_are_no_equal_shares_are_refused(head_dim, hidden, heads, problem):
    with pytest.raises(ValueError, match=problem):
        size_of_heads(Config(head_dim), hidden, heads)


def test_heads_are_equal_shares():
    assert size_of_heads(Config(), 32, 4) == size_of_heads(Config(8), 32, 4) == 8
