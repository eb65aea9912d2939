import weakref

import numpy as np
import pytest

from prune2deploy.tasks.predict import metric_of, outputs_of, score_of, score_outputs, torch_run


@pytest.fixture
def unlabelled(case):
    samples = case.samples.select(list(range(len(case.samples))))
    samples.labels = None
    return samples


def test_streamed_scores_are_those_of_outputs_that_are_kept(case, unlabelled):
    run = torch_run(case.model)
    outputs = outputs_of(run, case.samples)
    other = outputs[:, ::-1].copy()
    for samples in (case.samples, unlabelled):
        for reference in (outputs, other):
            assert score_of(run, case.task, samples, reference) == score_outputs(outputs, case.task, samples, reference)
    assert score_of(run, case.task, case.samples, outputs).metric == "accuracy"
    agreed = score_of(run, case.task, unlabelled, outputs)
    assert (agreed.metric, agreed.value) == ("accuracy against the dense model", 100)


def test_streamed_points_are_of_the_same_samples_whatever_the_model(case):
    run = torch_run(case.model)
    labels = np.asarray(case.samples.labels)
    right = metric_of(run, case.task, case.samples, labels).points
    wrong = metric_of(run, case.task, case.samples, (outputs_of(run, case.samples).argmax(-1) + 1) % 3).points
    order = [index for indices, _ in case.samples.batches(32) for index in indices]
    assert np.array_equal(right, 100.0 * (outputs_of(run, case.samples).argmax(-1) == labels)[order])
    assert not wrong.any()


def test_no_outputs_are_kept(case):
    alive, most = [], 0

    def run(inputs):
        nonlocal most
        outputs = np.zeros((len(next(iter(inputs.values()))), 3))
        alive.append(weakref.ref(outputs))
        most = max(most, sum(each() is not None for each in alive))
        return outputs

    small = case.samples.select(list(range(8)))
    many = [small.batch([index]) for index in range(8)]
    small.batches = lambda size: (([index], batch) for index, batch in enumerate(many))
    metric_of(run, case.task, small, np.zeros(8, dtype=int))
    assert len(alive) == 8
    assert most <= 2  # the batch that runs, and the one before
