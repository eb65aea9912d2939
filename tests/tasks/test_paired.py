import numpy as np
import pytest

from prune2deploy.tasks.metrics import Accuracy
from prune2deploy.tasks.paired import Loss, bootstrap_error, error_of_difference, error_of_mean, loss_between, weight_of_one


class WithoutMean(Accuracy):
    """The same metric, which does not say what each sample is worth."""

    points = None


def of(said, labels, metric=Accuracy):
    """The metric of a model that says the class `said` [n], 0 or 1."""
    found = metric("logits")
    found.update({"logits": np.eye(2)[said]}, labels)
    return found


def lost_by(said, other, labels, metric=Accuracy):
    return loss_between(*(of(each, labels, metric) for each in (said, other)))


def answers(share, labels, rng):
    """Right for about `share` of the samples."""
    return np.where(rng.random(len(labels)) < share, labels, labels + 1)


def test_loss_is_known_better_than_either_score():
    rng = np.random.default_rng(0)
    labels = np.zeros(2000, int)
    dense = answers(0.9, labels, rng)
    pruned = np.where(rng.random(2000) < 0.02, 1 - dense, dense)  # another answer to 2 % of them
    lost = lost_by(dense, pruned, labels)
    assert lost.points == pytest.approx(100 * ((pruned != 0).mean() - (dense != 0).mean()))
    assert lost.n == 2000
    apart = np.hypot(*(of(each, labels).score().standard_error for each in (dense, pruned)))
    assert lost.standard_error < apart / 2


def test_standard_error_is_how_much_the_loss_varies_from_one_split_to_the_next():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        labels = np.zeros(300, int)
        dense = answers(0.85, labels, rng)
        pruned = np.where(rng.random(300) < 0.1, answers(0.5, labels, rng), dense)
        found.append(lost_by(dense, pruned, labels))
    spread = np.std([lost.points for lost in found])
    assert np.mean([lost.standard_error for lost in found]) == pytest.approx(spread, rel=0.12)


def test_a_metric_that_is_no_mean_is_bootstrapped_to_the_same():
    rng = np.random.default_rng(2)
    labels = np.zeros(500, int)
    dense, pruned = answers(0.9, labels, rng), answers(0.8, labels, rng)
    mean, resampled = (lost_by(dense, pruned, labels, metric) for metric in (Accuracy, WithoutMean))
    assert resampled.points == pytest.approx(mean.points)
    assert resampled.standard_error == pytest.approx(mean.standard_error, rel=0.1)
    assert lost_by(dense, pruned, labels, WithoutMean) == resampled, "the same at every call"


def test_bootstrap_of_a_correlation():
    x = np.random.default_rng(3).normal(size=(400, 2))
    x[:, 1] += x[:, 0]
    error = bootstrap_error(lambda drawn: 100 * np.corrcoef(x[drawn].T)[0, 1], 400)
    r = np.corrcoef(x.T)[0, 1]
    assert error == pytest.approx(100 * (1 - r**2) / 400**0.5, rel=0.15)  # of Pearson's r, by the delta method


@pytest.mark.parametrize("n", [4, 24, 872])
@pytest.mark.parametrize("value", [0.0, 100.0])
def test_no_error_is_zero_where_all_samples_are_alike(value, n):
    labels = np.zeros(n, int)
    same = np.full(n, 0 if value else 1)
    for error in (
        error_of_mean(np.full(n, value)),
        lost_by(same, same, labels).standard_error,
        lost_by(same, same, labels, WithoutMean).standard_error,
    ):
        assert 0.5 * weight_of_one(n) < error <= weight_of_one(n)


def test_errors_are_the_usual_ones_where_there_are_many_samples():
    points = 100.0 * (np.arange(10_000) % 10 > 0)
    assert error_of_mean(points) == pytest.approx(100 * (0.9 * 0.1 / 10_000) ** 0.5, rel=1e-2)
    differences = points - np.roll(points, 1)
    assert error_of_difference(differences) == pytest.approx(differences.std() / 100, rel=1e-2)


def test_resamples_without_a_number_do_not_count():
    assert bootstrap_error(lambda drawn: float("nan"), 10) == weight_of_one(10)


@pytest.mark.parametrize(
    ("points", "error", "said"),
    [(0.6, 0.3, None), (0.6, 0.5, "more than 1"), (1.3, 0.5, "less than 1"), (1.6, 0.5, None), (-3.0, 4.5, "more than 1")],
)
def test_doubt_where_the_limit_is_nearer_than_the_loss_is_known(points, error, said):
    doubt = Loss(points, error, 100).doubt(1.0)
    assert doubt is None if said is None else said in doubt


def test_loss_as_a_person_reads_it():
    assert str(Loss(0.6, 0.4, 100)) == "lost 0.60 ± 0.40 points"
    assert str(Loss(-0.6, 0.4, 100)) == "gained 0.60 ± 0.40 points"
