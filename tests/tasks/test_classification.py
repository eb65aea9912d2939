import numpy as np
import pytest
import tiny
import torch

from prune2deploy.errors import InputError
from prune2deploy.tasks.objectives import Output


def random_logits(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, size=(6, 3)))


def named(logits):
    return {"logits": logits}


def output(logits):
    return {"logits": Output(np.asarray(logits))}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_losses_are_those_of_softened_predictions(case, temperature):
    logits, reference = random_logits(0), random_logits(1)
    found = case.task.objective.distillation_losses(named(logits), named(reference), temperature)
    for row, (got, wanted) in enumerate(zip(logits.numpy(), reference.numpy(), strict=True)):
        q, p = (np.exp(values / temperature) / np.exp(values / temperature).sum() for values in (got, wanted))
        assert found[row] == pytest.approx(temperature**2 * (p * np.log(p / q)).sum())


def test_at_temperature_one_they_are_the_divergence(case):
    logits, reference = random_logits(2), random_logits(3)
    found = case.task.objective.distillation_losses(named(logits), named(reference), 1.0).mean()
    assert found == pytest.approx(case.task.objective.divergence(output(logits), output(reference)))


def test_they_are_least_at_the_reference_and_have_a_gradient_elsewhere(case):
    reference = random_logits(4)
    for logits, moves in ((reference.clone(), False), (random_logits(5), True)):
        losses = case.task.objective.distillation_losses(named(logits.requires_grad_()), named(reference), 2.0)
        (gradient,) = torch.autograd.grad(losses.sum(), [logits])
        assert (losses.min() > 1e-3) == moves
        assert (gradient.abs().max() > 1e-3) == moves


def test_probes_have_the_fisher_information_of_the_predictions_as_covariance(case):
    logits = random_logits(6)
    generator = torch.Generator().manual_seed(0)
    many = logits.expand(20_000, *logits.shape).reshape(-1, logits.shape[-1])
    draws = case.task.objective.fisher_probe(named(many), generator)["logits"].reshape(20_000, *logits.shape)
    p = logits.softmax(-1)
    wanted = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    found = torch.einsum("nsa,nsb->sab", draws, draws) / len(draws)
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


def test_numbers_are_those_of_before_objectives_bit_for_bit(case):
    """Weights of pruned classifiers depend on every bit."""
    from scipy.special import log_softmax
    from torch.nn.functional import cross_entropy

    def generator():
        return torch.Generator().manual_seed(3)

    logits, reference = random_logits(7).float().repeat(50, 1), random_logits(8).float().repeat(50, 1)
    labels = torch.arange(len(logits)) % 3
    p = logits.softmax(-1)
    root = p.sqrt() * (torch.randint(0, 2, p.shape, generator=generator()).to(p.dtype) * 2 - 1)
    wanted, got = ((values / 4.0).log_softmax(-1) for values in (reference, logits))
    joint, part = case.task.objective, case.task.objective.parts["logits"]
    said, other = named(logits), named(reference)
    for found, before in (
        (part.losses(logits, labels), cross_entropy(logits, labels, reduction="none")),
        (part.sampled_labels(logits, generator()), torch.multinomial(p, 1, generator=generator()).squeeze(-1)),
        (part.fisher_probe(logits, generator()), root - p * root.sum(-1, keepdim=True)),
        (part.distillation_losses(logits, reference, 4.0), 4.0**2 * (wanted.exp() * (wanted - got)).sum(-1)),
        (joint.losses(said, case.task.targets(labels.numpy())), part.losses(logits, labels)),
        (joint.sampled_labels(said, generator())["logits"], part.sampled_labels(logits, generator())),
        (joint.fisher_probe(said, generator(), None, 4.0)["logits"], part.fisher_probe(logits / 4.0, generator())),
        (joint.distillation_losses(said, other, 4.0), part.distillation_losses(logits, reference, 4.0)),
    ):
        assert torch.equal(found, before)
    for scale in (1.0, np.exp(0.3)):
        outputs = scale * logits.numpy()
        exact, close = (log_softmax(values.astype(np.float64), -1) for values in (reference.numpy(), outputs))
        before = float((np.exp(exact) * (exact - close)).sum(-1).mean())
        assert part.divergence(outputs, reference.numpy()) == before
        assert joint.divergence(output(outputs), output(reference)) == before
        assert joint.divergence({"logits": output(logits)["logits"].times(scale)}, output(reference)) == before


# labels


@pytest.fixture
def make_task(bert_dir, tmp_path):
    """A task on these labels, of a model that calls its classes by these names."""

    def make(labels, names=tiny.TOPICS, **changes):
        for split, values in labels.items():
            tiny.write_jsonl(tmp_path / f"{split}.jsonl", [{"text": "the king", **value} for value in values])
        project = tiny.make_project(bert_dir, tmp_path, "text-classification", tmp_path, **changes)
        task = tiny.loaded_task(project)[1]
        task.config.id2label = dict(enumerate(names))
        return task

    return make


def given(*labels):
    return [{"label": label} for label in labels]


def refusal(function, *args):
    with pytest.raises(InputError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_labels_are_read_alike_whatever_is_drawn_of_them(make_task):
    task = make_task({"train": given(*[1, 2] * 20), "validation": given(1, 2, 3, 1)}, names=("1", "2", "3"))
    assert set(task.calibration(8, seed=0).labels) == {0, 1}
    assert set(task.reserve(8, seed=0, taken=8).labels) == {0, 1}
    assert list(task.evaluation().labels) == [0, 1, 2, 0]
    # what is drawn are names as before, but the other split's labels are numbers
    task = make_task({"train": given(*[1, 2] * 20), "validation": given(0, 1)}, names=("1", "2", "3"))
    assert set(task.calibration(8, seed=0).labels) == {1, 2}


def test_labels_are_those_of_the_rows_that_are_drawn(make_task):
    rows = [{"label": ("art", "War", "sport")[index % 3], "text": f"{'king ' * (index % 3 + 1)}"} for index in range(60)]
    task = make_task({"train": rows}, data_calibration="train[:50%]", data_evaluation="train[50%:]")
    for samples in (task.calibration(9, seed=0), task.reserve(9, seed=0, taken=9), task.evaluation()):
        wanted = [(0, 2, 1)[samples.tokens(index) - 3] for index in range(len(samples))]  # a token an odd label apart
        assert list(samples.labels) == wanted


@pytest.mark.parametrize("label", [None, "", " "])
def test_missing_labels_name_the_first_and_the_split(make_task, label):
    task = make_task({"train": given(*["art"] * 30, label, "war", label), "validation": given("art", "war")})
    message = refusal(task.calibration, 8, 0)
    assert "2 of 33 samples have no 'label', the first is train.jsonl, line 31 (split 'train')" in message
    assert len(task.evaluation()) == 2


def test_calibration_does_without_labels_where_there_are_none(make_task):
    task = make_task({"train": given(None, None), "validation": given("art", "war")})
    assert task.calibration(8, 0).labels is None
    assert list(task.evaluation().labels) == [0, 2]
    task = make_task({"train": given("art", "war"), "validation": given(None, None)})
    assert "2 of 2 samples have no 'label', the first is validation.jsonl, line 1" in refusal(task.evaluation)


def test_label_that_does_not_fit_names_its_line(make_task):
    task = make_task({"train": given("art", "war"), "validation": given(*["art"] * 6, "poetry")})
    for function, args in ((task.evaluation, ()), (task.calibration, (8, 0))):
        message = refusal(function, *args)
        assert "validation.jsonl, line 7 (split 'validation'): label 'poetry' is not one of the model's 3" in message


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        (("a\nb", "c", "d"), ["a b", "c", "d"]),
        (("yes\rno", "pos\r", ""), ["yes\rno", "pos\r", ""]),
        (("line\u2028sep\x85next", "b", "c"), ["line\u2028sep\x85next", "b", "c"]),
    ],
)
def test_names_of_labels_stay_apart_in_a_file_of_lines(make_task, names, lines):
    task = make_task({"train": given("x")}, names=names)
    assert task.label_names() == lines
    assert "".join(f"{line}\n" for line in lines).split("\n")[:-1] == lines


def test_names_of_labels_that_would_meet_are_refused(make_task):
    task = make_task({"train": given("x")}, names=("a\nb", "c", "a b"))
    assert "two labels are 'a b' on one line" in refusal(task.label_names)
