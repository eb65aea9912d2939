import json

import heads
import numpy as np
import pytest
import tiny
import torch

from prune2deploy.errors import InputError
from prune2deploy.tasks.predict import labels_of, metric_of, score_of, torch_run
from prune2deploy.tasks.question_answering import END, START, QuestionAnswering
from prune2deploy.tasks.spans import SquadMetric, Window, best_span, exact_match, normalised, word_f1

CONTEXT = "the old army won a great battle in the city and lost the long war " * 4
ROWS = [
    {"question": "won lost", "context": "a house of the king", "answers": {"text": ["the king"], "answer_start": [11]}},
    {"question": "song", "context": CONTEXT, "answers": {"text": ["city"], "answer_start": [39]}},
    {"question": "film music", "context": "old line", "answers": {"text": ["old"], "answer_start": [0]}},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return heads.save_model("question-answering", tmp_path_factory.mktemp("questions"))


@pytest.fixture
def of(model_dir, tmp_path):
    def make(rows, label="answers", **changes):
        (tmp_path / "data").mkdir(exist_ok=True)
        for split in ("train", "validation"):
            tiny.write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
        columns = {"text": "question", "text_pair": "context", "label": label}
        project = tiny.make_project(
            model_dir, tmp_path / "data", "question-answering", tmp_path, data_columns=columns,
            workload=[{"batch": 2, "seq_len": 16}], **changes,
        )  # fmt: skip
        return tiny.loaded_task(project)

    return make


def refusal(action, *args):
    with pytest.raises(InputError) as caught:
        action(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_answers(answers):
    return [{**row, "answers": answers} for row in ROWS]


def test_a_long_context_is_read_in_windows_that_overlap(of):
    _, task = of(ROWS)
    assert isinstance(task, QuestionAnswering)
    samples = task.evaluation()
    windows = task.samples_of_raw(samples, 3)
    assert [len(each) for each in windows][::2] == [1, 1]
    assert len(windows[1]) > 2
    read = [False] * len(CONTEXT)
    for index in windows[1]:
        assert samples.lengths[index] <= task.limit == 32
        for span in samples.windows[index].spans:
            for place in range(*(span or (0, 0))):
                read[place] = True
    assert all(read[place] for place, letter in enumerate(CONTEXT) if letter != " ")


def test_labels_point_at_the_answer_or_at_the_first_token(of):
    _, task = of(ROWS)
    samples = task.evaluation()
    found = 0
    for index, (first, last, number) in enumerate(samples.labels.tolist()):
        assert number == index
        window = samples.windows[index]
        if (first, last) == (0, 0):
            continue
        found += 1
        start, end = window.spans[first][0], window.spans[last][1]
        assert window.context[start:end] == ROWS[window.row]["answers"]["text"][0]
    assert found >= 3
    some = samples.select([2, 0])
    assert some.labels[:, 2].tolist() == [2, 0]
    targets = task.targets(samples.labels)
    assert torch.equal(targets[START], torch.tensor(samples.labels[:, 0]))
    assert torch.equal(targets[END], torch.tensor(samples.labels[:, 1]))


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["o"], "answer_start": [8]}, "o", ["o"], [{"text": "o", "answer_start": 8}],
        {"text": "o", "answer_start": 8},
        {"text": ["o", "u"], "answer_start": [8, 4]},
    ],
)  # fmt: skip
def test_answers_are_read_in_whatever_form(of, answers):
    rows = [{**row, "context": "a house of songs", "answers": answers} for row in ROWS]
    samples = of(rows)[1].evaluation()
    assert all("o" in answer for answer in samples.answers)


@pytest.mark.parametrize("answers", [None, [], {"text": [], "answer_start": []}, ""])
def test_a_question_may_have_no_answer(of, answers):
    rows = [*ROWS[:2], {**ROWS[2], "answers": answers}] if not isinstance(answers, str) else [
        {**row, "answers": each} for row, each in zip(ROWS, ["the king", "city", ""], strict=True)
    ]  # fmt: skip
    _, task = of(rows)
    samples = task.evaluation()
    assert [bool(each) for each in samples.answers] == [True, True, False]
    assert task.metric(samples).may_have_none


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ("queen", "the answer 'queen' is not in the context"),
        ({"text": ["king"], "answer_start": [2]}, "the answer 'king' is not in the context at character 2"),
        (7, "the answer is 7"),
        ({"text": ["a"], "answer_start": ["b"]}, "give a text of the context"),
    ],
)
def test_what_is_no_answer_is_told_with_its_line(of, answers, told):
    message = refusal(of(with_answers(answers))[1].evaluation)
    assert told in message
    assert "validation.jsonl, line 1" in message


def test_a_question_without_end_is_refused(of):
    message = refusal(of([{**ROWS[0], "question": "won " * 40}, *ROWS[1:]])[1].evaluation)
    assert "the question has 40 tokens, and 32 are read at once" in message


def test_texts_may_be_read_in_larger_parts(of):
    _, task = of(ROWS, data_max_length=20)
    assert task.limit == 20
    assert max(task.evaluation().lengths) <= 20


def test_without_answers_the_dense_model_is_the_measure(of):
    model, task = of(ROWS, label="")
    samples = task.evaluation()
    run = torch_run(model, task)
    labels = labels_of(run, task, samples)
    score = score_of(metric_of(run, task, samples, labels), samples)
    assert (score.value, score.metric) == (100, "exact match of windows against the dense model")
    other = metric_of(task.constant(labels), task, samples, labels).score()
    assert other.value < 100


# from the examples of SQuAD's own script
@pytest.mark.parametrize(
    ("given", "right", "exact", "f1"),
    [
        ("The Cat!", "cat", 1, 1), ("a  great-cat", "great cat", 0, 0), ("great cat sat", "the cat", 0, 0.5), ("", "", 1, 1),
        ("cat", "", 0, 0), ("an", "the", 1, 1), ("cat cat", "cat", 0, 2 / 3), ("U.S.", "us", 1, 1),
    ],
)  # fmt: skip
def test_answers_are_compared_as_squad_does(given, right, exact, f1):
    assert exact_match(given, right) == exact
    assert word_f1(given, right) == pytest.approx(f1)
    assert normalised(given) == normalised(given.upper())


def test_the_best_stretch_is_that_of_a_search_through_all():
    rng = np.random.default_rng(0)
    for _ in range(30):
        spans = [None, None, *[(3 * place, 3 * place + 2) for place in range(15)], None]
        start, end = rng.normal(size=(2, 20))  # longer than the window: padding
        wanted = max(
            (start[first] + end[last], spans[first][0], spans[last][1])
            for first in range(2, 17) for last in range(first, 17)
        )  # fmt: skip
        assert best_span(start, end, spans) == pytest.approx(wanted)
    assert best_span(start, end, [None] * 5) is None


def test_the_score_is_of_the_best_window_of_each_question():
    spans = [None, (0, 1), (2, 3)]
    windows = [Window(0, "a b", spans), Window(0, "a b", spans), Window(1, "c d", spans), Window(2, "e f", spans)]
    start = np.array([[0, 1, 0], [0, 0, 5], [9, 1, 0], [0, 3, 0]], dtype=float)
    labels = np.array([[0, 0, number] for number in range(4)])
    for answers, wanted in (
        ([["b"], ["c"], ["x"]], [1, 1, 0]), ([["b"], [], ["e"]], [1, 1, 1]), ([["a"], [], ["f"]], [0, 1, 0])
    ):  # fmt: skip
        metric = SquadMetric((START, END), windows, answers, exact=True)
        metric.update({START: start[:3], END: start[:3]}, labels[:3])
        metric.update({START: start[3:], END: start[3:]}, labels[3:])
        np.testing.assert_array_equal(metric.points, 100.0 * np.array(wanted))
        assert metric.score().n == 3


def test_what_a_server_must_know_of_answers(of, tmp_path):
    for rows, none in ((ROWS, False), ([*ROWS[:2], {**ROWS[2], "answers": None}], True)):
        _, task = of(rows)
        task.write_answering(tmp_path)
        said = json.loads((tmp_path / "answering.json").read_text(encoding="utf-8"))
        assert (said["may_have_none"], said["longest"]) == (none, 30)
