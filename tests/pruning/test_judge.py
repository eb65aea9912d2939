import copy

import numpy as np
import pytest
import tiny
import torch
from said import divergence, logits_of

from prune2deploy.errors import CheckFailedError, InputError
from prune2deploy.models.family import heads_of
from prune2deploy.models.logit_scale import scale_logits_
from prune2deploy.models.surgery import mask_
from prune2deploy.progress import Progress
from prune2deploy.pruning.judge import Stages, best_scale
from prune2deploy.pruning.methods.method import State
from prune2deploy.tasks.objectives import Categorical, Gaussian, Joint, Output


def masked(case):
    plan = tiny.plan_keeping(case.model, tiny.ragged)
    model = copy.deepcopy(case.model)
    mask_(model, plan)
    return State(plan, model)


def test_a_stage_is_judged_on_held_out_samples_alone(case):
    held_out = case.samples.select([0, 1, 2])
    results = []
    for evaluation in (case.samples.select([3, 4, 5, 6]), case.samples.select([7, 8])):
        judged, state = Stages(case.model, case.task, held_out, evaluation, Progress()), masked(case)
        assert judged.add("search", state, 0.0)
        results.append(judged.results[0])
    assert results[0].divergence == results[1].divergence
    assert results[0].reconstruction_error == results[1].reconstruction_error
    assert [result.n for result in results] == [4, 2]
    outputs, reference = (logits_of(m, case.task, held_out) for m in (state.model, case.model))
    assert results[0].divergence == pytest.approx(divergence(case.task, outputs, reference))


@pytest.mark.parametrize("sureness", [0.2, 1.0, 7.0])
def test_how_sure_a_model_is_does_not_decide(case, sureness):
    judged = Stages(case.model, case.task, case.samples, case.samples, Progress())
    assert judged.add("search", masked(case), 0.0)
    everything = tiny.plan_keeping(case.model, lambda block: block.units)
    dense = State(everything, copy.deepcopy(case.model))
    scale_logits_(dense.model, sureness)
    assert judged.add("recovered", dense, 0.0)
    recovered = judged.results[-1]
    assert recovered.logit_scale == pytest.approx(1 / sureness, rel=1e-3)
    assert recovered.divergence == pytest.approx(0, abs=1e-6)
    outputs, reference = (logits_of(m, case.task, case.samples) for m in (dense.model, case.model))
    np.testing.assert_allclose(outputs, reference, rtol=1e-3, atol=1e-3)


def test_the_best_scale_against_every_scale(case):
    generator = np.random.default_rng(0)
    reference = 3 * generator.standard_normal((40, case.model.config.num_labels))
    for error in (0.0, 0.3, 3.0, 100.0):
        outputs = 2 * reference + error * generator.standard_normal(reference.shape)
        scale, left = best_scale(case.task, {"logits": Output(outputs)}, {"logits": Output(reference)})
        every = [divergence(case.task, a * outputs, reference) for a in np.geomspace(1 / 20, 20, 2000)]
        assert left == pytest.approx(divergence(case.task, scale * outputs, reference))
        assert left == pytest.approx(min(every), rel=1e-3, abs=1e-6)
    assert best_scale(case.task, {"logits": Output(reference)}, {"logits": Output(reference)}) == (1.0, 0.0)


def test_outputs_that_a_factor_would_change_are_not_scaled(case, monkeypatch):
    monkeypatch.setattr(case.task, "objective", Joint({"logits": Categorical(), "score": Gaussian()}))
    generator = np.random.default_rng(0)
    reference = {"logits": Output(generator.normal(size=(9, 3))), "score": Output(generator.normal(size=(9, 1)))}
    outputs = {name: each.times(2.0) for name, each in reference.items()}
    assert best_scale(case.task, outputs, reference) == (1.0, case.task.objective.divergence(outputs, reference))
    assert best_scale(case.task, outputs, reference)[1] > 0.01


def test_outputs_that_are_not_finite_are_refused(case):
    judged, state = Stages(case.model, case.task, case.samples, case.samples, Progress()), masked(case)
    with torch.no_grad():
        next(state.model.parameters()).fill_(float("nan"))
    with pytest.raises(CheckFailedError, match="search broke the model"):
        judged.add("search", state, 0.0)
    assert judged.results == []


def test_dense_model_that_is_not_finite_is_not_called_a_broken_stage(case):
    model = copy.deepcopy(case.model)
    with torch.no_grad():
        heads_of(model)[0].weight.fill_(3e38)
    some = case.samples.select([0, 1, 2])
    with pytest.raises(InputError, match="the dense model's outputs are not finite on some samples"):
        Stages(model, case.task, some, case.samples, Progress())
    assert Stages(case.model, case.task, some, case.samples, Progress())


def test_stage_that_is_finite_on_held_out_samples_alone_is_refused(case, monkeypatch):
    judged, state = Stages(case.model, case.task, case.samples.select([0, 1]), case.samples, Progress()), masked(case)
    monkeypatch.setattr("prune2deploy.pruning.judge.scale_logits_", lambda model, scale: scale_logits_(model, float("inf")))
    with pytest.raises(CheckFailedError, match="search broke the model"):
        judged.add("search", state, 0.0)
    assert judged.results == []


def test_divergence_that_is_no_number_is_refused(case, monkeypatch):
    judged, state = Stages(case.model, case.task, case.samples, case.samples, Progress()), masked(case)
    monkeypatch.setattr(type(case.task.objective), "divergence", lambda *given: float("nan"))
    with pytest.raises(CheckFailedError, match="search broke the model: it is not finite how far"):
        judged.add("search", state, 0.0)


@pytest.mark.parametrize("case", ["bert"], indirect=True)  # elsewhere, what comes into a layer goes past it
def test_model_whose_last_layer_says_the_same_of_everything(case):
    model = copy.deepcopy(case.model)
    with torch.no_grad():
        for parameter in tiny.layers_of(model)[-1].parameters():
            parameter.zero_()
    judged = Stages(model, case.task, case.samples, case.samples, Progress())
    everything = tiny.plan_keeping(model, lambda block: block.units)
    assert judged.add("search", State(everything, copy.deepcopy(model)), 0.0)
    assert judged.results[0].reconstruction_error == 0
