import gc
import platform

import numpy as np
import psutil
import pytest
import torch

from prune2deploy.memory import LARGE, Spilled, give_back, map_large_blocks


@pytest.fixture
def spilled():
    found = Spilled()
    for value in (1.0, 2.0):
        found.append(torch.full((3, 2), value)[:, :1])
    return found


def values(spilled):
    return [tensor.unique().tolist() for tensor in spilled]


def test_what_went_in_comes_out_in_order(spilled):
    assert len(spilled) == 2
    assert values(spilled) == [[1.0], [2.0]]
    assert spilled[1].shape == (3, 1)
    with pytest.raises(IndexError):
        spilled[2]


def test_another_tensor_in_its_place_leaves_what_was_taken_out(spilled):
    before = spilled[0]
    spilled[0] = before + 4
    assert before.unique().tolist() == [1.0]
    assert values(spilled) == [[5.0], [2.0]]


def test_changing_what_was_taken_out_changes_nothing_in_store(spilled):
    spilled[0].zero_()
    assert values(spilled) == [[1.0], [2.0]]


def test_files_go_with_it():
    spilled = Spilled()
    spilled.append(torch.ones(2))
    folder, view = spilled.folder, spilled[0]
    assert len(list(folder.iterdir())) == 1
    del spilled
    gc.collect()
    assert view.unique().tolist() == [1.0], "a view outlives the store"
    assert not folder.exists()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, with habits of its own")
@pytest.mark.parametrize(("count", "numbers"), [(125, 400_000), (4000, 12_500)])
def test_freed_memory_goes_back_to_the_system(count, numbers):
    np.ones(3_900_000)  # from when this 31 MB block is freed, glibc would keep all that are smaller
    map_large_blocks()
    blocks = [np.ones(numbers) for _ in range(count)]  # 400 MB
    last, held = blocks.pop(), psutil.Process().memory_info().rss
    del blocks
    if numbers * 8 < LARGE:
        give_back()
    assert psutil.Process().memory_info().rss < held - 300e6
    assert last.sum() == numbers
