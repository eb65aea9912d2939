import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from prune2deploy.tasks.metrics import Accuracy
from prune2deploy.tasks.objectives import IGNORED


def random_case(n=300, positions=6, classes=4, seed=0):
    """Outputs that are right half of the time, labels of which some are ignored, and which positions are no padding."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=(n, positions))
    outputs = rng.normal(0, 1, size=(n, positions, classes)) + np.eye(classes)[labels]
    labels[rng.random(labels.shape) < 0.2] = IGNORED
    return outputs, labels, np.arange(positions) < rng.integers(1, positions + 1, size=(n, 1))


def fed(metric, outputs, labels, counted=None, size=64):
    for start in range(0, len(outputs), size):
        of = slice(start, start + size)
        metric.update({"logits": outputs[of]}, labels[of], None if counted is None else counted[of])
    return metric


def test_accuracy_is_that_of_scikit_learn_with_the_error_of_a_proportion_of_two_samples_more():
    outputs, labels = random_case()[0][:, 0], np.random.default_rng(1).integers(4, size=300)
    metric = fed(Accuracy("logits"), outputs, labels)
    score, wanted = metric.score(), accuracy_score(labels, outputs.argmax(-1))
    assert (score.metric, score.value, score.n) == ("accuracy", 100 * wanted, 300)
    share = (300 * wanted + 1) / 302  # one that is right and one that is wrong
    assert score.standard_error == pytest.approx(100 * (share * (1 - share) / 302) ** 0.5)
    assert np.array_equal(metric.points, 100.0 * (outputs.argmax(-1) == labels))


def test_accuracy_of_positions_is_that_of_all_that_count():
    outputs, labels, counted = random_case()
    answers = counted & (labels != IGNORED)
    for mask, given in ((answers, counted), (labels != IGNORED, None)):
        metric = fed(Accuracy("logits", per_position=True), outputs, labels, given)
        wanted = accuracy_score(labels[mask], outputs.argmax(-1)[mask])
        assert metric.score().value == pytest.approx(100 * wanted)
        assert metric.score().n == 300
        assert metric.points.mean() == pytest.approx(100 * wanted)
    outputs[~answers] = np.nan
    assert fed(Accuracy("logits", True), outputs, labels, counted).score().value == pytest.approx(
        100 * accuracy_score(labels[answers], outputs.argmax(-1)[answers])
    )


def test_standard_error_is_how_much_accuracy_of_positions_varies_over_resamples():
    outputs, labels, counted = random_case()
    outputs[::3] = np.eye(4)[np.where(labels[::3] == IGNORED, 0, labels[::3])]  # positions of a sample err together
    metric = fed(Accuracy("logits", per_position=True), outputs, labels, counted)
    rng, numbers = np.random.default_rng(0), metric.numbers
    spread = np.std([metric.value(numbers[rng.integers(300, size=300)]) for _ in range(4000)])
    assert metric.score().standard_error == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("per_position", [False, True])
def test_points_of_two_models_differ_by_what_their_scores_differ(per_position):
    outputs, labels, counted = random_case()
    other = outputs + np.random.default_rng(2).normal(0, 0.3, size=outputs.shape)
    if not per_position:
        outputs, other, labels, counted = outputs[:, 0], other[:, 0], np.maximum(labels[:, 0], 0), None
    first, second = (fed(Accuracy("logits", per_position), each, labels, counted) for each in (outputs, other))
    lost = first.points - second.points
    assert lost.mean() == pytest.approx(first.score().value - second.score().value)
    assert 0 < lost.std() < first.points.std()


def test_only_two_numbers_a_sample_are_kept():
    outputs, labels, counted = random_case()
    metric = fed(Accuracy("logits", per_position=True), outputs, labels, counted)
    assert metric.numbers.shape == (300, 2)
    for kept in metric._kept:
        assert kept.base is None or kept.base.size <= 2 * len(kept), "nor is a larger array held by a view"


def test_batches_may_be_of_any_size_and_length():
    outputs, labels, counted = random_case()
    whole = fed(Accuracy("logits", per_position=True), outputs, labels, counted, size=300).score()
    metric = Accuracy("logits", per_position=True)
    for row, mask in enumerate(counted):
        length = mask.sum()
        metric.update({"logits": outputs[row : row + 1, :length]}, labels[row : row + 1, :length], mask[None, :length])
    assert metric.score() == whole
