import heads
import numpy as np
import pytest
import tiny
import torch

from prune2deploy.errors import InputError
from prune2deploy.tasks.masked_lm import MaskedLm
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.predict import metric_of, torch_run


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return heads.save_model("masked-lm", tmp_path_factory.mktemp("masks"))


@pytest.fixture
def of(model_dir, tmp_path):
    def make(texts, **changes):
        (tmp_path / "data").mkdir(exist_ok=True)
        for split in ("train", "validation"):
            tiny.write_jsonl(tmp_path / "data" / f"{split}.jsonl", [{"text": text} for text in texts])
        project = tiny.make_project(
            model_dir, tmp_path / "data", "masked-lm", tmp_path, data_columns={"text": "text"},
            workload=[{"batch": 2, "seq_len": 8}], **changes,
        )  # fmt: skip
        return tiny.loaded_task(project)

    return make


TEXTS = [row["text"] for row in tiny.text_rows(12, 3)] + ["", "won " * 60]


def test_masks_stand_for_the_tokens_that_were_there(of):
    _, task = of(TEXTS)
    assert isinstance(task, MaskedLm)
    samples = task.evaluation()
    kept = [text for text in TEXTS if text.strip()]
    masked = 0
    for text, ids, labels in zip(kept, samples.encoded["input_ids"], samples.labels, strict=True):
        plain = task.tokenizer(text, truncation=True, max_length=task.limit)["input_ids"]
        places = np.flatnonzero(labels != IGNORED)
        masked += len(places)
        assert len(ids) == len(plain) == len(labels)
        assert all(ids[place] == task.tokenizer.mask_token_id for place in places)
        assert all(labels[place] == plain[place] for place in places)
        assert [each for place, each in enumerate(ids) if place not in places] == [
            each for place, each in enumerate(plain) if place not in places
        ]
    assert masked >= 10
    again = of(TEXTS)[1].evaluation()
    assert again.digest() == samples.digest()


def test_what_clients_send_has_the_same_masks(of):
    _, task = of(TEXTS)
    samples, raw = task.evaluation(), task.raw(5)["TEXT"]
    for index, text in enumerate(raw):
        assert task.tokenizer(text.decode())["input_ids"] == samples.encoded["input_ids"][index]


@pytest.mark.parametrize("metric", ["accuracy", "pseudo-perplexity"])
def test_the_score_is_of_masked_tokens_alone(of, metric):
    model, task = of(TEXTS, scoring={"metric": metric})
    samples = task.evaluation()
    nats, right, count = 0.0, 0, 0
    for index in range(len(samples)):
        with torch.no_grad():
            logits = model(**samples.batch([index]).tensors()).logits[0]
        labels = torch.tensor(samples.labels[index])
        there = labels != IGNORED
        nats += float(torch.nn.functional.cross_entropy(logits[there], labels[there], reduction="sum"))
        right, count = right + int((logits[there].argmax(-1) == labels[there]).sum()), count + int(there.sum())
    score = metric_of(torch_run(model, task), task, samples, samples.labels).score()
    assert score.value == pytest.approx(100 * right / count if metric == "accuracy" else np.exp(nats / count), rel=1e-4)


def test_texts_without_a_word_of_their_own_say_nothing(of):
    with pytest.raises(InputError, match="has a word of one token, to mask"):
        of(["won", "a b", "12 34"] * 4)[1].evaluation()
