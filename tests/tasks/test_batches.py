import numpy as np
import pytest

from prune2deploy.tasks.base import grouped


@pytest.mark.parametrize("seed", range(5))
def test_batches_keep_to_size_and_tokens_and_lose_nothing(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, size=50).tolist()
    order = rng.permutation(50).tolist()
    size, tokens = int(rng.integers(1, 12)), int(rng.integers(60, 300))
    batches = grouped(order, lengths, size, tokens)
    assert [index for batch in batches for index in batch] == order
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        padded = len(batch) * max(lengths[index] for index in batch)
        assert len(batch) <= size
        assert padded <= tokens
        if following is not None:  # a batch ends only where the next sample would not fit
            more = [*batch, following[0]]
            assert len(more) > size or len(more) * max(lengths[index] for index in more) > tokens


def test_a_sample_that_is_too_long_is_a_batch_of_its_own():
    assert grouped([0, 1, 2], [5, 100, 5], 8, 20) == [[0], [1], [2]]
    assert grouped([], [], 8, 20) == []
