from types import SimpleNamespace

import numpy as np
import pytest

from prune2deploy.tasks.objectives import Categorical, Joint
from prune2deploy.validation.witness import chain_of, reading, serving

USUAL = [b"good", b"bad", b"so so"]
LOGITS = {b"good": [0.0, 2.0], b"bad": [3.0, -1.0], b"so so": [0.5, 0.4], b"": [1.0, 0.0], b"\xff": [9.0, 9.0]}


def task(odd=()):
    return SimpleNamespace(
        raw=lambda count: {"TEXT": USUAL[:count]},
        place=lambda index: f"data.jsonl, line {index + 1}",
        odd=lambda: {f"odd {text!r}": {"TEXT": text} for text in odd},
        label_names=lambda: ["neg", "pos"],
        outputs=("logits",),
        objective=Joint({"logits": Categorical()}),
        samples_of_raw=lambda samples, count: [[index] for index in range(min(count, len(samples)))],
    )


def answering(**changes):
    """Something that answers raw samples; `changes`: by text, other logits or an exception."""

    def answer(sample):
        text = sample["TEXT"]
        found = changes.get(text.decode(errors="replace"), LOGITS[text])
        if isinstance(found, Exception):
            raise found
        return np.array(found)

    return answer


def test_answers_that_agree_are_counted():
    found = serving(task([b""]), answering(), answering(good=[0.0, 2.0005]))
    assert found.objection is None
    assert found.samples == 4
    assert found.difference == pytest.approx(0.0005)
    assert str(found) == "logits differ by at most 0.0005 over 4 raw samples"
    assert found.as_check("name").passed


def test_half_precision_may_round_further():
    rounded = answering(good=[0.0, 2.01])
    assert serving(task(), answering(), rounded, tolerance=1e-2).objection is None
    assert "logits differ by 0.01" in serving(task(), answering(), rounded).objection


@pytest.mark.parametrize("logits", [[0.0, 2.1], [2.0, 0.0], [float("nan"), 2.0]])
def test_first_difference_is_told_with_both_answers(logits):
    found = serving(task(), answering(bad=logits), answering())
    assert found.objection.startswith("data.jsonl, line 2: transformers' pipeline gives 'neg' (0.982), and what a server")
    check = found.as_check("name")
    assert not check.passed
    assert check.detail == found.objection


def test_what_neither_takes_is_no_difference():
    both = {"\ufffd": ValueError("no UTF-8")}
    found = serving(task([b"\xff"]), answering(**both), answering(**both))
    assert found.objection is None
    assert str(found).endswith("over 4 raw samples, 1 odd ones that the pipeline refuses")


def test_what_the_pipeline_takes_and_we_do_not_is_told():
    refusing = answering(**{"\ufffd": ValueError("\nno UTF-8\nat all")})
    found = serving(task([b"\xff"]), refusing, answering())
    assert "odd b'\\xff'" in found.objection
    assert "no answer (no UTF-8)" in found.objection
    assert "\n" not in found.objection
    assert serving(task([b"\xff"]), answering(), refusing).objection is None, "nothing to compare with"


def test_usual_sample_that_the_pipeline_does_not_take_is_told():
    found = serving(task(), answering(), answering(bad=ValueError("too bad")))
    assert found.objection.startswith("data.jsonl, line 2: transformers' pipeline gives no answer (too bad)")


def test_model_that_gives_no_numbers_is_told_as_such():
    broken = answering(bad=[float("nan"), 1.0])
    assert serving(task(), broken, broken).objection.startswith("data.jsonl, line 2: the model itself gives no numbers")


def test_pipeline_that_takes_nothing_bears_no_witness():
    broken = answering(**{text.decode(): TypeError("cannot run") for text in USUAL})
    found = serving(task(), broken, broken)
    assert found.objection == "transformers' own pipeline takes none of the samples: cannot run"


def test_reading_compares_our_own_samples_with_their_raw_form():
    class Ours:
        def __init__(self, texts):
            self.texts = texts

        def __len__(self):
            return len(self.texts)

        def select(self, indices):
            return Ours([self.texts[index] for index in indices])

        def batches(self, size):
            yield list(range(len(self))), SimpleNamespace(inputs=self.texts, valid=None)

    def run(texts):
        return {"logits": np.array([LOGITS[text] for text in texts])}

    assert reading(task(), run, Ours(USUAL), answering()).objection is None
    same = reading(task(), lambda texts: {"logits": np.ones((len(texts), 2))}, Ours(USUAL), answering())
    assert "answers all samples alike" in same.objection
    swapped = reading(task(), run, Ours(USUAL[::-1]), answering())
    assert "data.jsonl, line 1: transformers' pipeline gives 'pos' (0.881), and our reading" in swapped.objection


def test_a_server_answers_with_all_outputs_of_what_comes_through_its_preprocessing():
    objective = Joint({"logits": Categorical(), "other": Categorical()})
    task = SimpleNamespace(
        outputs=("logits", "other"), objective=objective, counted=lambda inputs: None, model_inputs=lambda arrays: arrays
    )
    answer = chain_of(
        task, lambda raw: {"x": np.array([[float(len(raw["TEXT"][0])), 1.0]])},
        lambda inputs: {"other": -inputs["x"], "logits": 2 * inputs["x"]},
    )  # fmt: skip
    assert answer({"TEXT": b"good"}).tolist() == [8.0, 2.0, -4.0, -1.0]
