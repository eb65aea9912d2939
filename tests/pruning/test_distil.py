"""Distillation: what is trained, what is not, and that it can be interrupted."""

import copy

import heads
import pytest
import structures
import tiny
import torch

from prune2deploy.config import RecoverySettings
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import output_projection
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import mask_, shrunk
from prune2deploy.progress import Progress
from prune2deploy.pruning.recovery import distil as distilling
from prune2deploy.pruning.recovery.distil import Lesson, Teacher, batches_of, distil, rate_at
from prune2deploy.tasks.predict import outputs_of, torch_run

STEPS = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("lessons")
    for task in heads.HEADS:
        heads.save(task, root / task)
    return root


def opened(folders, task, tmp_path):
    """(dense model, task) of a head."""
    root = folders / task
    columns = {
        "multi-label": {"text": "text", "label": "labels"}, "token-classification": {"text": "tokens", "label": "ner_tags"},
        "question-answering": {"text": "question", "text_pair": "context", "label": "answers"},
        "masked-lm": {"text": "text"}, "embeddings": {"text": "query", "text_pair": "document"},
        "reranking": {"text": "query", "text_pair": "passage", "label": "label"},
        "multiple-choice": {"text": "sent1", "text_pair": "sent2", "choices": "ending*", "label": "label"},
    }[task]  # fmt: skip
    return tiny.loaded_task(tiny.make_project(
        root / "model", root / "data", heads.KINDS.get(task, task), tmp_path, data_columns=columns,
        workload=[{"batch": 2, "seq_len": 8}],
    ))  # fmt: skip


def pruned_of(model, share=2, vanished=True):
    """(a masked copy, its plan): every block at a share of its units, and one gone."""
    kept = {
        block: [] if vanished and number == 3 else list(range(0, block.units, share))
        for number, block in enumerate(blocks_of(model))
    }
    plan, masked = Plan.of(signature_of(model.config), kept), copy.deepcopy(model)
    mask_(masked, plan)
    return masked, plan


def lesson_of(model, task, tmp_path, steps=STEPS, seed=0):
    samples = task.calibration(64, 0)
    return Lesson(model, task, [samples], RecoverySettings(train="distil", steps=steps), seed, tmp_path)


def apart(task, model, dense, samples):
    said, wanted = (outputs_of(torch_run(each, task), task, samples) for each in (model, dense))
    return task.objective.divergence(said, wanted)


@pytest.mark.parametrize("name", list(heads.HEADS))
def test_what_is_kept_answers_more_like_the_dense_model(folders, name, tmp_path):
    model, task = opened(folders, name, tmp_path)
    masked, plan = pruned_of(model)
    samples = task.calibration(64, 0)
    before = apart(task, masked, model, samples)
    distil(lesson_of(model, task, tmp_path, steps=30), masked, plan, Progress())
    assert apart(task, masked, model, samples) < 0.9 * before
    assert not list(tmp_path.glob("distil-*"))


def test_masked_units_stay_masked_and_embeddings_as_they_were(folders, tmp_path):
    model, task = opened(folders, "embeddings", tmp_path)
    masked, plan = pruned_of(model)
    before = copy.deepcopy(masked)
    distil(lesson_of(model, task, tmp_path), masked, plan, Progress())
    for block in blocks_of(masked):
        dropped = [unit for unit in range(block.units) if unit not in plan.units(block)]
        columns = [unit * block.unit_size + each for unit in dropped for each in range(block.unit_size)]
        weight = output_projection(masked, block).weight
        assert (weight[:, columns] == 0).all()
        if plan.units(block):
            assert not torch.equal(weight, output_projection(before, block).weight)
    for name, parameter in masked.named_parameters():
        if "embeddings" in name and "LayerNorm" not in name:
            assert torch.equal(parameter, before.get_parameter(name))
        assert not parameter.requires_grad
    slim = shrunk(masked, plan)
    samples = task.evaluation()
    got, wanted = (outputs_of(torch_run(each, task), task, samples) for each in (slim, masked))
    torch.testing.assert_close(*(torch.tensor(each["sentence_embedding"].values) for each in (got, wanted)))


def test_the_same_seed_gives_the_same_weights(folders, tmp_path):
    model, task = opened(folders, "multi-label", tmp_path)
    found = []
    for seed in (0, 0, 1):
        masked, plan = pruned_of(model)
        distil(lesson_of(model, task, tmp_path, seed=seed), masked, plan, Progress())
        found.append(masked.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_a_lesson_that_was_interrupted_goes_on(folders, tmp_path, monkeypatch):
    model, task = opened(folders, "token-classification", tmp_path)
    whole, plan = pruned_of(model)
    distil(lesson_of(model, task, tmp_path), whole, plan, Progress())
    monkeypatch.setattr(distilling, "SAVED_AFTER", -1.0)
    interrupted, plan = pruned_of(model)
    steps = []
    step = distilling._step

    def stopping(*args):
        if len(steps) == 7:
            raise KeyboardInterrupt
        steps.append(1)
        step(*args)

    monkeypatch.setattr(distilling, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        distil(lesson_of(model, task, tmp_path), interrupted, plan, Progress())
    [file] = tmp_path.glob("distil-*.safetensors")
    monkeypatch.setattr(distilling, "_step", lambda *args: (steps.append(1), step(*args)))
    again, plan = pruned_of(model)
    distil(lesson_of(model, task, tmp_path), again, plan, Progress())
    assert len(steps) == STEPS  # none was made twice
    assert not file.exists()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_damaged_file_of_an_interrupted_lesson_is_not_believed(folders, tmp_path, monkeypatch):
    model, task = opened(folders, "multi-label", tmp_path)
    whole, plan = pruned_of(model)
    distil(lesson_of(model, task, tmp_path), whole, plan, Progress())
    masked, plan = pruned_of(model)
    lesson = lesson_of(model, task, tmp_path)
    student = shrunk(masked, plan)
    trained = distilling.trainable_(student)
    saved = distilling.Saved(lesson, student, trained, torch.optim.Adam(trained.values()))
    saved.path.write_bytes(b"no weights")
    masked, plan = pruned_of(model)
    distil(lesson, masked, plan, Progress())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(masked.state_dict()[name], tensor)


@pytest.mark.parametrize("family", ["albert", "modernbert", "t5", "swin", "deberta-v2"])
def test_every_structure_can_be_taught(family, tmp_path):
    """Layers that run again, fused projections, biases that are handed on, windows."""
    structures.save_with_data(family, tmp_path / "all")
    model, task = structures.loaded(family, tmp_path / "all", tmp_path)
    masked, plan = pruned_of(model)
    samples = task.calibration(32, 0)
    before = apart(task, masked, model, samples)
    distil(lesson_of(model, task, tmp_path, steps=20), masked, plan, Progress())
    after = apart(task, masked, model, samples)
    assert after < before
    assert apart(task, shrunk(masked, plan), model, samples) == pytest.approx(after, rel=1e-3, abs=1e-6)


def test_batches_have_all_samples_once_and_of_a_length():
    import numpy as np

    class Fake:
        lengths = np.random.default_rng(0).integers(3, 60, 1500).tolist()

        def __len__(self):
            return len(self.lengths)

        def tokens(self, index):
            return self.lengths[index]

    batches = batches_of(Fake(), np.random.default_rng(1))
    assert sorted(index for batch in batches for index in batch) == list(range(1500))
    assert max(map(len, batches)) == distilling.BATCH
    assert np.mean([np.ptp([Fake.lengths[index] for index in batch]) for batch in batches]) < 8


def test_the_dense_model_is_asked_once_where_there_is_room(folders, tmp_path, monkeypatch):
    model, task = opened(folders, "multi-label", tmp_path)
    teacher = Teacher(lesson_of(model, task, tmp_path))
    first = teacher.batch(0)[1]
    assert teacher.batch(0)[1] is first
    teacher.room = 0
    assert teacher.batch(1)[1] is not teacher.batch(1)[1]


def test_the_rate_rises_and_falls():
    rates = [rate_at(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == 0.0
    assert rate_at(0, 1) == 1.0
