"""F1 of each class against scikit-learn, and what counts as lost."""

import numpy as np
import pytest
import tiny
from sklearn.metrics import f1_score

from prune2deploy.tasks.base import LOGITS
from prune2deploy.tasks.by_class import ByClass, ClassChange, counts_of
from prune2deploy.tasks.objectives import IGNORED


class Classes:
    """A task of three classes."""

    def classes(self):
        return ["a", "b", "c"]

    def answered(self, said, labels, counted):
        return counts_of(said[LOGITS].argmax(-1), labels, 3)


def filled(seed, labels, batches=3):
    logits = np.random.default_rng(seed).normal(size=(len(labels), 3))
    found = ByClass(Classes())
    for part in np.array_split(np.arange(len(labels)), batches):
        found.update({LOGITS: logits[part]}, labels[part], None)
    return found, logits.argmax(-1)


def test_scores_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).integers(0, 3, 60)
    found, said = filled(1, labels)
    np.testing.assert_allclose(found.scores(), 100 * f1_score(labels, said, average=None))
    assert found.counts[2].tolist() == np.bincount(labels).tolist()


def test_changes_name_every_class():
    labels = np.random.default_rng(0).integers(0, 3, 60)
    (before, _), (after, _) = filled(1, labels), filled(2, labels)
    changes = after.against(before)
    assert [change.name for change in changes] == ["a", "b", "c"]
    assert [change.before for change in changes] == pytest.approx(before.scores().tolist())
    assert [change.after for change in changes] == pytest.approx(after.scores().tolist())
    assert not any(change.collapsed for change in before.against(before))


@pytest.mark.parametrize(
    ("n", "before", "after", "collapsed"),
    [(30, 80, 30, True), (30, 80, 45, False), (3, 80, 0, False), (30, 10, 0, False)],
)
def test_what_is_as_good_as_lost(n, before, after, collapsed):
    change = ClassChange("war", n, before, after)
    assert change.collapsed == collapsed
    assert str(change) == f"label 'war' collapsed: F1 {before:.1f} → {after:.1f} (n = {n})"


def test_a_task_counts_its_own_answers(bert_dir, text_data, tmp_path):
    _, task = tiny.loaded_task(tiny.make_project(bert_dir, text_data, "text-classification", tmp_path))
    found = ByClass(task)
    assert found.names == list(tiny.TOPICS)
    logits = np.eye(3)[[0, 1, 1, 2]]
    found.update({LOGITS: logits}, np.array([0, 1, 2, 2]), None)
    assert found.counts.tolist() == [[1, 1, 1], [1, 2, 1], [1, 1, 2]]


def test_positions_that_do_not_count_are_left_out():
    from prune2deploy.tasks.token_classification import TokenClassification

    class Two(TokenClassification):
        def __init__(self):
            self.config = type("Config", (), {"num_labels": 2})()

    labels = np.array([[0, 1, IGNORED], [1, 1, 0]])
    said = {LOGITS: np.eye(2)[[[0, 1, 1], [0, 1, 1]]]}
    counted = np.array([[True, True, True], [True, True, False]])
    assert Two().answered(said, labels, counted).tolist() == [[1, 2], [2, 2], [1, 3]]
    assert Two().answered(said, labels, None).tolist() == [[1, 2], [2, 3], [2, 3]]


def test_each_of_several_labels_is_a_class():
    from prune2deploy.config import ScoringSettings
    from prune2deploy.tasks.multi_label import MultiLabel

    task = MultiLabel.__new__(MultiLabel)
    task.scoring = ScoringSettings(threshold=0.5)
    said = {LOGITS: np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 2.0]])}
    right = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
    assert task.answered(said, right, None).tolist() == [[1, 2], [2, 2], [2, 2]]
