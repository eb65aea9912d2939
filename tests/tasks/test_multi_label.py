import json

import datasets
import heads
import numpy as np
import pytest
import tiny

from prune2deploy.errors import InputError
from prune2deploy.tasks.multi_label import MultiLabel

ROWS = [["angry"], [], ["funny", "old"], ["long"], ["old", "angry"], [], ["funny"], ["long", "old", "funny"]]
WANTED = np.array([[float(mood in row) for mood in heads.MOODS] for row in ROWS])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return heads.save_model("multi-label", tmp_path_factory.mktemp("moods"))


@pytest.fixture
def of(model_dir, tmp_path):
    """The task on rows like these in both splits."""

    def make(values, column="label", role="label", **changes):
        rows = [{"text": f"won the match {row}", column: value} for row, value in enumerate(values)]
        return of_rows(rows, role=role, **changes)

    def of_rows(rows, role="label", **changes):
        (tmp_path / "data").mkdir(exist_ok=True)
        for split in ("train", "validation"):
            tiny.write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
        columns = {"text": "text", "label": role}
        point = [{"batch": 2, "seq_len": 8}]
        project = tiny.make_project(
            model_dir, tmp_path / "data", "multi-label", tmp_path, data_columns=columns, workload=point, **changes
        )
        return tiny.loaded_task(project)[1]

    make.of_rows = of_rows
    return make


def refusal(action, *args):
    with pytest.raises(InputError) as caught:
        action(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        ROWS,
        [[heads.MOODS.index(mood) for mood in row] for row in ROWS],
        [[str(heads.MOODS.index(mood)) for mood in row] for row in ROWS],
        [[mood.upper() for mood in row] for row in ROWS],
        WANTED.astype(int).tolist(),
        WANTED.tolist(),
        [row or None for row in ROWS],
    ],
    ids=["names", "numbers", "numbers as text", "other letters", "marks", "marks with a point", "none"],
)
def test_lists_of_labels_are_read_in_whatever_form(of, values):
    task = of(values)
    assert isinstance(task, MultiLabel)
    np.testing.assert_array_equal(task.evaluation().labels, WANTED)


def test_each_label_may_have_a_column(of):
    rows = [
        {"text": "won", **dict(zip(heads.MOODS, map(int, marks), strict=True))} for marks in WANTED
    ]
    np.testing.assert_array_equal(of.of_rows(rows, role="*").evaluation().labels, WANTED)
    rows[3]["funny"] = 3
    assert "line 4" in refusal(of.of_rows(rows, role="*").evaluation)
    assert "no column 'funny'" in refusal(of.of_rows([{"text": "won", "angry": 1}] * 8, role="*").evaluation)


def test_a_single_label_is_a_list_of_one(of):
    np.testing.assert_array_equal(of(["old", "angry"] * 4).evaluation().labels[0], [0, 0, 0, 1])


def test_numbers_of_a_data_set_go_by_its_names(of, model_dir, tmp_path):
    names = ["old", "long", "funny", "angry"]  # in another order than the model's
    feature = datasets.List(datasets.ClassLabel(names=names))
    rows = {"text": ["won"] * 8, "label": [[names.index(mood) for mood in row] for row in ROWS]}
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    found = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": found, "validation": found}).save_to_disk(tmp_path / "saved")
    project = tiny.make_project(
        model_dir, tmp_path / "saved", "multi-label", tmp_path, workload=[{"batch": 2, "seq_len": 8}]
    )
    np.testing.assert_array_equal(tiny.loaded_task(project)[1].evaluation().labels, WANTED)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([["angry"], ["sad"]] * 4, "label 'sad' is not one of the model's 4 classes"),
        ([{"angry": 1}] * 8, "the label is an object"),
        ([["angry"], [["old"]]] * 4, "give a list of labels"),
        ([[0, 1, 0, 1], [0, 1, 1]] * 4, "3 marks (0 or 1), and the model has 4 labels"),
    ],
)
def test_what_is_no_list_of_labels_is_told_with_its_line(of, values, told):
    message = refusal(of(values).evaluation)
    assert told in message
    assert "jsonl, line" in message


def test_unlabelled_data_is_judged_by_the_dense_model(of, model_dir):
    task = of(ROWS, role="")
    assert task.evaluation().labels is None
    assert task.calibration(4, 0).labels is None


def test_the_threshold_goes_with_the_package(of, tmp_path):
    task = of(ROWS, scoring={"threshold": 0.3, "metric": "macro-f1"})
    (tmp_path / "version").mkdir()
    task.write_answering(tmp_path / "version")
    assert json.loads((tmp_path / "version" / "answering.json").read_text(encoding="utf-8")) == {"threshold": 0.3}
    assert (tmp_path / "version" / "labels.txt").read_text(encoding="utf-8").split() == list(heads.MOODS)
    samples = task.evaluation()
    metric = task.metric(samples)
    assert metric.name == "macro-F1"
    said = metric.least == pytest.approx(np.log(0.3 / 0.7))
    assert said


def test_an_unknown_metric_names_those_there_are(of):
    assert "it has: micro-f1, macro-f1" in refusal(lambda: of(ROWS, scoring={"metric": "accuracy"}))


def test_one_answer_to_everything_has_the_commonest_label(of):
    task = of(ROWS)
    labels = task.evaluation().labels
    answered = task.constant(labels)({"input_ids": np.zeros((3, 5))})["logits"] > 0
    assert answered.shape == (3, 4)
    assert (answered == (labels.sum(0) == labels.sum(0).max())).all()
