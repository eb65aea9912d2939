import weakref
from dataclasses import replace

import numpy as np
import pytest

from prune2deploy.tasks.objectives import Categorical, Joint, Pointer
from prune2deploy.tasks.predict import labels_of, metric_of, outputs_of, score_of, torch_run


@pytest.fixture
def unlabelled(case):
    samples = case.samples.select(list(range(len(case.samples))))
    samples.labels = None
    return samples


def test_streamed_scores_are_those_of_outputs_that_are_kept(case, unlabelled):
    run = torch_run(case.model, case.task)
    outputs = outputs_of(run, case.task, case.samples)["logits"].values

    def reversed_run(inputs):
        return {"logits": run(inputs)["logits"][:, ::-1]}

    for dense, kept in ((run, outputs), (reversed_run, outputs[:, ::-1])):
        for samples, labels in ((case.samples, case.samples.labels), (unlabelled, kept.argmax(-1))):
            assert np.array_equal(labels_of(dense, case.task, samples), labels)
            whole = case.task.metric(None)
            whole.update({"logits": outputs}, np.asarray(labels))
            streamed, wanted = score_of(metric_of(run, case.task, samples, labels), samples), whole.score()
            assert replace(streamed, metric="accuracy") == wanted
            assert streamed.metric == ("accuracy" if samples is case.samples else "accuracy against the dense model")
    agreed = score_of(metric_of(run, case.task, unlabelled, labels_of(run, case.task, unlabelled)), unlabelled)
    assert (agreed.metric, agreed.value) == ("accuracy against the dense model", 100)


def test_streamed_points_are_of_the_same_samples_whatever_the_model(case, unlabelled):
    run = torch_run(case.model, case.task)
    labels = np.asarray(case.samples.labels)
    said = outputs_of(run, case.task, case.samples)["logits"].values.argmax(-1)
    right = metric_of(run, case.task, case.samples, labels).points
    wrong = metric_of(run, case.task, unlabelled, (said + 1) % 3).points
    assert np.array_equal(right, 100.0 * (said == labels))  # in the order of the samples, whatever the batches are
    assert not wrong.any()


def test_outputs_are_in_the_order_of_the_samples_at_any_size_of_batch(case):
    run = torch_run(case.model, case.task)
    together, alone = (outputs_of(run, case.task, case.samples, size)["logits"].values for size in (32, 1))
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    for index in range(3):
        found = run(case.samples.batch([index]).inputs)["logits"][0]
        np.testing.assert_allclose(together[index], found, rtol=1e-4, atol=1e-5)


def test_several_outputs_come_by_name_without_padding(case, monkeypatch):
    """As of a model that points at tokens and says something of each of them."""
    if case.family != "bert":
        pytest.skip("images have no padding")
    monkeypatch.setattr(case.task, "objective", Joint({"start": Pointer(), "tokens": Categorical(per_position=True)}))

    def run(inputs):
        ids = inputs["input_ids"].astype(float)
        return {"start": ids, "tokens": np.stack([ids, -ids], axis=-1), "unasked": ids}

    found = outputs_of(run, case.task, case.samples, 5)
    assert list(found) == ["start", "tokens"]
    each = [case.samples.batch([index]).inputs["input_ids"][0] for index in range(len(case.samples))]
    assert [list(row[mask]) for row, mask in zip(found["start"].values, found["start"].counted, strict=True)] == [
        list(ids) for ids in each
    ]
    np.testing.assert_array_equal(found["tokens"].values[:, 0], np.concatenate(each))


def test_no_outputs_are_kept(case, unlabelled):
    alive, most = [], 0

    def run(inputs):
        nonlocal most
        outputs = np.zeros((len(next(iter(inputs.values()))), 3))
        alive.append(weakref.ref(outputs))
        most = max(most, sum(each() is not None for each in alive))
        return {"logits": outputs}

    small = unlabelled.select(list(range(8)))
    many = [small.batch([index]) for index in range(8)]
    small.batches = lambda size: (([index], batch) for index, batch in enumerate(many))
    metric_of(run, case.task, small, labels_of(run, case.task, small))
    assert len(alive) == 16
    assert most <= 2  # the batch that runs, and the one before
