import json

import heads
import numpy as np
import pytest
import tiny
import torch

from prune2deploy.errors import InputError
from prune2deploy.tasks.choices import choice_columns
from prune2deploy.tasks.multiple_choice import MultipleChoice
from prune2deploy.tasks.predict import labels_of, metric_of, outputs_of, score_of, torch_run

ROWS = [
    {"sent1": "won the great match", "sent2": "the team", "ending0": "lost", "ending1": "won a war of the old city",
     "label": 1},
    {"sent1": "old", "sent2": "", "ending0": "king", "ending1": "army", "label": 0},
    {"sent1": "house of the king", "sent2": "a", "ending0": "battle battle battle", "ending1": "song", "label": 1},
]
LISTED = [
    {"question": "won", "choices": ["lost", "war"], "answer": "A"},
    {"question": "old", "choices": ["a", "b"], "answer": "B"},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return heads.save_model("multiple-choice", tmp_path_factory.mktemp("choices"))


@pytest.fixture
def of(model_dir, tmp_path):
    def make(rows, **columns):
        (tmp_path / "data").mkdir(exist_ok=True)
        for split in ("train", "validation"):
            tiny.write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows)
        guessed = MultipleChoice.guess_columns(dict.fromkeys(rows[0]), columns, "data")
        project = tiny.make_project(
            model_dir, tmp_path / "data", "multiple-choice", tmp_path, data_columns=guessed,
            workload=[{"batch": 2, "seq_len": 16}],
        )  # fmt: skip
        return tiny.loaded_task(project)

    return make


def refusal(action, *args):
    with pytest.raises(InputError) as caught:
        action(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_columns_are_those_of_known_data_sets():
    swag = ["video-id", "fold-ind", "startphrase", "sent1", "sent2", *(f"ending{n}" for n in range(4)), "label"]
    for features, wanted in (
        (swag, {"text": "sent1", "text_pair": "sent2", "choices": "ending*", "label": "label"}),
        (["ind", "ctx_a", "ctx_b", "ctx", "endings", "label"],
         {"text": "ctx_a", "text_pair": "ctx_b", "choices": "endings", "label": "label"}),
        (["id", "question", "choices", "answerKey"], {"text": "question", "choices": "choices", "label": "answerKey"}),
        (["article", "answer", "question", "options"],
         {"text": "article", "text_pair": "question", "choices": "options", "label": "answer"}),
        (["premise", "choice1", "choice2", "question", "label"],
         {"text": "premise", "choices": "choice*", "label": "label"}),
        (["goal", "sol1", "sol2", "label"], {"text": "goal", "choices": "sol*", "label": "label"}),
    ):  # fmt: skip
        assert MultipleChoice.guess_columns(dict.fromkeys(features), {}, "data") == wanted
    assert choice_columns("ending*", ["ending10", "ending2", "endings", "ending1"]) == ["ending1", "ending2", "ending10"]
    assert choice_columns("A, B", ["B", "A", "C"]) == ["A", "B"]
    assert not choice_columns("A,D", ["B", "A", "C"])
    assert not choice_columns("nothing", ["B", "A", "C"])


def test_columns_of_choices_are_there_and_different():
    features = dict.fromkeys(("text", "A", "B", "label"))
    for names, told in (("A,B,C", "no column 'C' for the choices"), ("A, A", "the column 'A' is named twice")):
        assert told in refusal(MultipleChoice.guess_columns, features, {"choices": names}, "data")


def test_what_cannot_be_told_is_asked():
    for features, told in ((["x", "choices", "label"], "--text"), (["text", "x", "label"], "--choices"),
                           (["text", "choices", "x"], "--label")):  # fmt: skip
        assert told in refusal(MultipleChoice.guess_columns, dict.fromkeys(features), {}, "data")


def test_batches_say_what_choices_alone_say(of):
    model, task = of(ROWS)
    samples = task.evaluation()
    assert (len(samples), samples.labels.tolist(), task.choices) == (3, [1, 0, 1], 2)
    batch = samples.batch([0, 1, 2])
    assert batch.inputs["input_ids"].shape[:2] == (3, 2)
    assert batch.valid.sum(1).tolist() == batch.inputs["attention_mask"].sum((1, 2)).tolist()
    together = outputs_of(torch_run(model, task), task, samples)["logits"].values
    for row, sample in zip(ROWS, together, strict=True):
        for place, said in enumerate(sample):
            second = f"{row['sent2']} {row[f'ending{place}']}"
            pair = task.tokenizer(row["sent1"], second, return_tensors="pt")
            with torch.no_grad():
                wanted = float(model(**{name: tensor[None] for name, tensor in pair.items()}).logits)
            assert said == pytest.approx(wanted, abs=1e-5)
    some = samples.select([2, 0])
    np.testing.assert_allclose(outputs_of(torch_run(model, task), task, some)["logits"].values, together[[2, 0]], atol=1e-6)
    assert some.digest() != samples.digest()
    assert [samples.tokens(index) for index in samples.order()] == sorted(samples.tokens(index) for index in range(3))


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        (["A", "b"], [0, 1]), ([1, 2], [0, 1]), (["1", "2.0"], [0, 1]), ([0, 1], [0, 1]), (["lost", "b"], [0, 1]),
        ([1, 1], [1, 1]), ([None, -1], None), (["", ""], None),
    ],
)  # fmt: skip
def test_labels_are_numbers_letters_or_texts(of, answers, wanted):
    _, task = of([{**row, "answer": answer} for row, answer in zip(LISTED, answers, strict=True)])
    labels = task.calibration(8, 0).labels
    assert (labels if labels is None else labels.tolist()) == wanted


def test_labels_may_be_what_the_data_calls_the_choices(of):
    rows = [{"question": "won", "choices": {"label": ["1", "0"], "text": ["lost", "war"]}, "answer": "0"}] * 2
    assert of(rows)[1].evaluation().labels.tolist() == [1, 1]


def test_numbers_that_are_choices_are_texts(of):
    rows = [
        {"question": "won", "choices": ["1", "0"], "answer": "0"}, {"question": "old", "choices": ["7", "1"], "answer": "7"},
    ]  # fmt: skip
    assert of(rows)[1].evaluation().labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"choices": [1, 2]}, "choice 1 is"), ({"choices": "['a', 'b']"}, "the choices are one text"),
        ({"answer": "C"}, "'C' is none of the 2 choices"), ({"answer": 5}, "5' is none of the 2 choices"),
        ({"choices": ["a"]}, "there is one choice"), ({"choices": ["a", None]}, "choice 2 is missing"),
        ({"answer": None}, "no 'answer': leave the row out"),
        ({"choices": ["a", "b", "c"]}, "3 choices, where most have 2"), ({"question": None}, "the text is missing"),
    ],
)  # fmt: skip
def test_what_is_no_sample_is_told_with_its_line(of, change, told):
    message = refusal(of([LISTED[0], {**LISTED[1], **change}])[1].evaluation)
    assert told in message
    assert "validation.jsonl, line 2" in message


def test_without_labels_the_dense_model_is_the_measure(of):
    model, task = of(ROWS, label="")
    samples = task.evaluation()
    run = torch_run(model, task)
    labels = labels_of(run, task, samples)
    score = score_of(metric_of(run, task, samples, labels), samples)
    assert (score.value, score.metric) == (100, "accuracy against the dense model")
    assert metric_of(task.constant(labels), task, samples, labels).score().value >= 100 / 3


def test_a_workload_is_full_and_of_real_texts(of):
    _, task = of(ROWS)
    samples = task.evaluation()
    inputs = task.workload_inputs(samples, task.default_point(task.config))
    assert inputs["input_ids"].shape == (1, 2, 32)
    assert inputs["attention_mask"].all()
    raw = task.raw(2)
    assert raw["TEXT"] == [b"won the great match", b"old"]
    assert json.loads(raw["CHOICES"][0]) == ["the team lost", "the team won a war of the old city"]
