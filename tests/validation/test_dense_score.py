import numpy as np
import pytest
from said import logits_of
from tiny import loaded_task, make_project, taught, text_rows, write_jsonl

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import Samples as OfTask
from prune2deploy.tasks.predict import torch_run
from prune2deploy.validation.dense_score import LEAST, POSITIONS, SCORED, dense_score, drawn


@pytest.fixture
def scored(bert_dir, tmp_path):
    """From rows to what the dense score of them is."""

    def score(rows, force=False):
        for split in ("train", "validation"):
            write_jsonl(tmp_path / f"{split}.jsonl", rows)
        model, task = loaded_task(make_project(bert_dir, tmp_path, "text-classification", tmp_path))
        return dense_score(task, torch_run(model, task), task.evaluation(), force), model, task

    return score


def rows_of(bert_dir, count):
    return taught(bert_dir, text_rows(count, seed=4))


def test_score_is_the_accuracy_where_all_samples_are_taken(scored, bert_dir):
    score, model, task = scored(rows_of(bert_dir, 40))
    samples = task.evaluation()
    right = (logits_of(model, task, samples).argmax(-1) == samples.labels).mean()
    assert score.value == pytest.approx(100 * right)
    assert score.n == 40


def test_worse_than_one_answer_to_everything(scored, bert_dir):
    rows = rows_of(bert_dir, 40)
    for number, row in enumerate(rows):
        row["label"] = "war" if number % 10 else row["label"]  # nine of ten: more than the model says it of
    with pytest.raises(InputError, match=r"one answer to everything 9\d\.\d\d"):
        scored(rows)
    assert scored(rows, force=True)[0].value < 60


def test_worse_than_half_of_its_own_labels(scored, bert_dir):
    order = ("art", "sport", "war")
    rows = rows_of(bert_dir, 60)
    for number, row in enumerate(rows):  # a third each, so that one answer to everything is worth little
        row["label"] = order[number % 3]
    with pytest.raises(InputError, match=r"the model's own labels 100\.00"):
        scored(rows)


@pytest.mark.parametrize(("count", "length", "expected"), [
    (1000, 10, SCORED), (100, 10, 100), (1000, 512, LEAST), (1000, None, POSITIONS // 256), (10, 4096, 10)
])  # fmt: skip
def test_long_samples_are_fewer(count, length, expected):
    class Samples:
        together, drawn = 1, OfTask.drawn

        def __init__(self, indices):
            self.indices = indices

        def __len__(self):
            return len(self.indices)

        def tokens(self, index):
            return length

        def select(self, indices):
            return Samples([self.indices[index] for index in indices])

    some = drawn(Samples(list(range(count)))).indices
    assert len(some) == len(set(some)) == expected
    assert some == sorted(some) == drawn(Samples(list(range(count)))).indices
    assert expected == count or np.mean(some) == pytest.approx(count / 2, rel=0.25), "from all over the split"
