import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef

from prune2deploy.tasks.metrics import (
    Correlation,
    CosineToDense,
    MacroF1,
    Matthews,
    MultiLabelF1,
    PseudoPerplexity,
    SquaredError,
    logit,
)
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.paired import loss_between


def filled(metric, output, labels, name="logits", parts=3):
    for places in np.array_split(np.random.default_rng(9).permutation(len(labels)), parts):
        metric.update({name: output[places]}, labels[places], None, places.tolist())
    return metric


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 4)), rng.choice(4, size=60, p=[0.7, 0.1, 0.1, 0.1])


def test_macro_f1_and_matthews_are_those_of_scikit_learn(classes):
    logits, labels = classes
    said = logits.argmax(-1)
    assert filled(MacroF1("logits"), logits, labels).score().value == pytest.approx(
        100 * f1_score(labels, said, average="macro")
    )
    assert filled(Matthews("logits"), logits, labels).score().value == pytest.approx(100 * matthews_corrcoef(labels, said))


def test_one_answer_to_everything_has_no_correlation(classes):
    logits, labels = classes
    same = np.zeros_like(logits)
    assert filled(Matthews("logits"), same, labels).score().value == 0
    assert filled(MacroF1("logits"), same, labels).score().value < 30


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("micro", [True, False])
def test_multi_label_f1_is_that_of_scikit_learn(threshold, micro):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 5)), (rng.random((50, 5)) > 0.7).astype(np.float32)
    said = 1 / (1 + np.exp(-logits)) >= threshold
    wanted = f1_score(labels, said, average="micro" if micro else "macro")
    score = filled(MultiLabelF1("logits", threshold, micro), logits, labels).score()
    assert score.value == pytest.approx(100 * wanted)
    assert score.standard_error > 0


def test_labels_that_never_come_are_left_out_of_the_mean():
    logits = np.full((4, 2), -5.0)
    logits[:, 0] = 5
    labels = np.array([[1, 0]] * 4)
    assert filled(MultiLabelF1("logits", 0.5, micro=False), logits, labels).score().value == 100
    assert filled(MultiLabelF1("logits", 0.5, micro=False), -5 * np.ones((4, 2)), 0 * labels).score().value == 0


def test_logit_is_the_inverse_of_the_sigmoid():
    assert 1 / (1 + np.exp(-logit(0.3))) == pytest.approx(0.3)


def test_of_squared_errors_less_is_better():
    rng = np.random.default_rng(2)
    labels = rng.normal(size=40)
    good, bad = labels[:, None] + 0.1, labels[:, None] + 2 * rng.normal(size=(40, 1))
    before, after = filled(SquaredError("logits"), good, labels), filled(SquaredError("logits"), bad, labels)
    assert before.score().value == pytest.approx(0.01)
    lost = loss_between(before, after)
    assert lost.points == pytest.approx(after.score().value - 0.01)
    assert 0 < lost.standard_error < after.score().value
    assert before.worse(2.0, 1.0)
    assert not Correlation("logits").worse(2.0, 1.0)
    assert loss_between(after, before).points < 0


def test_pseudo_perplexity_is_that_of_the_cross_entropy():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(8, 6, 11)).astype(np.float32), rng.integers(0, 11, (8, 6))
    labels[rng.random((8, 6)) > 0.4] = IGNORED
    nats = torch.nn.functional.cross_entropy(torch.tensor(logits).flatten(0, 1), torch.tensor(labels).flatten())
    score = filled(PseudoPerplexity("logits"), logits, labels).score()
    assert score.value == pytest.approx(float(nats.exp()), rel=1e-5)
    assert score.standard_error > 0


def test_cosine_to_the_dense_model():
    rng = np.random.default_rng(4)
    vectors, others = rng.normal(size=(20, 7)), rng.normal(size=(20, 7))
    metric = filled(CosineToDense("vector"), vectors, others, "vector")
    wanted = torch.nn.functional.cosine_similarity(torch.tensor(vectors), torch.tensor(others))
    assert metric.score().value == pytest.approx(100 * float(wanted.mean()))
    np.testing.assert_allclose(metric.points, 100 * wanted)
    assert filled(CosineToDense("vector"), vectors, 3 * vectors, "vector").score().value == pytest.approx(100)
