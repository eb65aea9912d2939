import numpy as np
import pytest

from prune2deploy.profiling.grid import FFN_POINTS, coarse_widths, refined_widths


@pytest.mark.parametrize(
    ("units", "step"), [(3072, 16), (3072, 64), (1536, 16), (64, 16), (100, 16), (8, 16), (1, 64)]
)
def test_coarse_grid_spans_the_block_in_steps(units, step):
    widths = coarse_widths(units, step)
    assert (widths[0], widths[-1]) == (0, units)
    assert widths == sorted(set(widths))
    assert all(width % step == 0 for width in widths[:-1])


def test_coarse_grid_is_denser_where_blocks_are_thin():
    widths = coarse_widths(3072, 16)
    assert widths[1] - widths[0] < widths[-1] - widths[-2]
    assert len(widths) >= 10


@pytest.mark.parametrize("units", [1536, 3072, 3000])
def test_refined_grid_keeps_what_was_measured_and_adds_steps(units):
    coarse = coarse_widths(units, 16)
    widths = refined_widths(coarse, [0.001 * width for width in coarse], 16)
    assert len(widths) == FFN_POINTS
    assert set(coarse) <= set(widths)
    assert widths == sorted(set(widths))
    assert all(width % 16 == 0 for width in widths[:-1])


def test_straight_curve_is_refined_evenly():
    coarse = coarse_widths(4096, 16)
    widths = refined_widths(coarse, [0.001 * width for width in coarse], 16)
    assert max(np.diff(widths)) <= 4096 / 12


@pytest.mark.parametrize("bend", [500, 1500, 2600])
def test_points_gather_where_the_curve_bends(bend):
    coarse = coarse_widths(3072, 16)
    bent = [1 + max(0.0, (width - bend) / 50) for width in coarse]
    widths = np.array(refined_widths(coarse, bent, 16))
    straight = np.array(refined_widths(coarse, [float(width) for width in coarse], 16))

    def near(grid):
        return int((abs(grid - bend) < 400).sum())

    assert near(widths) > near(straight)


def test_narrow_block_gets_every_step_and_no_more():
    coarse = coarse_widths(64, 16)
    assert refined_widths(coarse, [float(width) for width in coarse], 16) == [0, 16, 32, 48, 64]
    assert refined_widths([0, 8], [0.0, 1.0], 16) == [0, 8]


def test_flat_curve_of_zeros_is_no_trouble():
    widths = refined_widths([0, 1024, 2048], [0.0, 0.0, 0.0], 16, count=9)
    assert widths == [0, 256, 512, 768, 1024, 1280, 1536, 1792, 2048]
