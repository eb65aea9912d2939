import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.special import expit, iv, log_softmax
from scipy.stats import bernoulli, entropy, norm

from prune2deploy.tasks.objectives import (
    IGNORED,
    Bernoulli,
    Categorical,
    Cosine,
    Gaussian,
    Joint,
    Output,
    Pointer,
    difference_of,
    largest_of,
)

MANY = 40_000
FAR = 5.0  # standard errors that a mean over `MANY` draws may lie off
COUNTED = np.array([[True, True, True, False], [True, False, True, False]])  # padding, and a position without a label

PER_SAMPLE = [(Categorical(), (3,)), (Bernoulli(), (3,)), (Gaussian(scale=0.5), (2,)), (Cosine(), (4,))]
PER_POSITION = [
    (Categorical(per_position=True), (4, 3)), (Bernoulli(per_position=True), (4,)),
    (Bernoulli(per_position=True), (4, 2)), (Gaussian(per_position=True, scale=2.0), (4,)),
    (Cosine(per_position=True), (4, 3)),
]  # fmt: skip
WITH_POSITIONS = [*PER_POSITION, (Pointer(), (4,))]
EVERY = [*((*case, None) for case in PER_SAMPLE), *((*case, COUNTED[:1]) for case in WITH_POSITIONS)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_outputs(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1.5, size=shape))


def some_labels(objective, outputs, seed=0):
    """Labels that fit, among them one of the counted positions for a pointer."""
    rng = np.random.default_rng(seed)
    if isinstance(objective, Pointer):
        return torch.tensor([0, 2][: len(outputs)])
    if isinstance(objective, Categorical):
        return torch.from_numpy(rng.integers(outputs.shape[-1], size=outputs.shape[:-1]))
    if isinstance(objective, Bernoulli):
        return torch.from_numpy(rng.integers(2, size=outputs.shape))
    return torch.from_numpy(rng.normal(size=outputs.shape))


def tensor(counted):
    return None if counted is None else torch.from_numpy(counted)


def spoilt(outputs, counted):
    """With no number where nothing counts."""
    outputs = outputs.clone()
    outputs[~tensor(counted)] = torch.nan if outputs.is_floating_point() else -7
    return outputs


def repeated(values):
    return None if values is None else values.expand(MANY, *values.shape[1:])


def assert_covariance(draws, wanted):
    """Whether `draws` [many, ...] have the second moments `wanted`."""
    flat = draws.reshape(len(draws), -1)
    products = flat[:, :, None] * flat[:, None, :]
    allowed = FAR * products.std(0) / len(flat) ** 0.5 + 1e-12
    assert ((products.mean(0) - wanted).abs() <= allowed).all()


def fisher_by_hand(objective, z):
    """Of the outputs [d] of one prediction, by enumeration of all labels where they are countable."""
    z = z.numpy()
    if isinstance(objective, Categorical):
        p = np.exp(log_softmax(z))
        return sum(p[y] * np.outer(np.eye(len(z))[y] - p, np.eye(len(z))[y] - p) for y in range(len(z)))
    if isinstance(objective, Bernoulli):
        p, total = expit(z), np.zeros((len(z), len(z)))
        for y in itertools.product([0, 1], repeat=len(z)):
            total += np.prod(np.where(y, p, 1 - p)) * np.outer(y - p, y - p)
        return total
    if isinstance(objective, Gaussian):
        return np.eye(len(z)) / objective.scale**2
    u = z / np.linalg.norm(z)
    return (np.eye(len(z)) - np.outer(u, u)) / (z @ z)


# the Fisher information


@pytest.mark.parametrize(("objective", "shape"), PER_SAMPLE)
def test_probes_have_the_fisher_information_as_covariance(objective, shape):
    outputs = random_outputs(1, *shape)
    probes = objective.fisher_probe(repeated(outputs), generator())
    assert_covariance(probes, torch.from_numpy(fisher_by_hand(objective, outputs[0])))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("objective", "shape", "counted"), EVERY)
def test_probes_have_the_hessian_of_the_distillation_loss_as_covariance(objective, shape, counted, temperature):
    outputs = random_outputs(1, *shape)
    if counted is not None:
        outputs = spoilt(outputs, counted)

    def loss(values):
        return objective.distillation_losses(values, outputs, temperature, tensor(counted)).sum()

    hessian = torch.autograd.functional.hessian(loss, outputs).reshape(outputs.numel(), -1)
    probes = objective.fisher_probe(repeated(outputs), generator(), repeated(tensor(counted)), temperature)
    assert probes.shape == (MANY, *shape)
    assert_covariance(probes, hessian)
    if counted is not None:
        assert not probes[:, ~tensor(counted)[0]].any()


@pytest.mark.parametrize(("objective", "shape", "counted"), [case for case in EVERY if not isinstance(case[0], Cosine)])
def test_so_have_gradients_for_labels_drawn_from_the_prediction(objective, shape, counted):
    outputs = random_outputs(1, *shape)
    mask = repeated(tensor(counted))
    labels = objective.sampled_labels(repeated(outputs), generator(), mask)
    given = repeated(outputs).clone().requires_grad_()
    (gradients,) = torch.autograd.grad(objective.losses(given, labels, mask).sum(), given)
    hessian = torch.autograd.functional.hessian(
        lambda values: objective.distillation_losses(values, outputs, 1.0, tensor(counted)).sum(), outputs
    )
    assert_covariance(gradients, hessian.reshape(outputs.numel(), -1))


def test_drawn_directions_are_von_mises_fisher():
    """Of concentration 1: E[cos] = I_{d/2}(1) / I_{d/2 - 1}(1); gradients are spread like the probe but for a factor."""
    outputs = random_outputs(1, 4)
    labels = Cosine().sampled_labels(repeated(outputs), generator())
    torch.testing.assert_close(labels.norm(dim=-1), torch.ones(MANY, dtype=torch.float64))
    towards = labels @ (outputs[0] / outputs[0].norm())
    mean = iv(2, 1) / iv(1, 1)
    assert abs(towards.mean() - mean) <= FAR * towards.std() / MANY**0.5
    given = repeated(outputs).clone().requires_grad_()
    (gradients,) = torch.autograd.grad(Cosine().losses(given, labels).sum(), given)
    assert_covariance(gradients, mean * torch.from_numpy(fisher_by_hand(Cosine(), outputs[0])))


def test_drawing_directions_ends_where_outputs_are_no_numbers():
    assert Cosine().sampled_labels(torch.full((2, 3), torch.nan), generator()).shape == (2, 3)


@pytest.mark.parametrize(("objective", "shape", "counted"), EVERY)
def test_random_numbers_follow_the_seed(objective, shape, counted):
    outputs, mask = random_outputs(1, *shape), tensor(counted)
    outputs = outputs.expand(8, *shape)
    mask = None if mask is None else mask.expand(8, -1)
    for draw in (objective.sampled_labels, objective.fisher_probe):
        assert torch.equal(draw(outputs, generator(1), mask), draw(outputs, generator(1), mask))
        assert not torch.equal(draw(outputs, generator(1), mask), draw(outputs, generator(2), mask))


# labels and losses


def test_drawn_classes_and_answers_come_as_often_as_predicted():
    outputs = random_outputs(1, 3)
    shares = torch.bincount(Categorical().sampled_labels(repeated(outputs), generator()), minlength=3) / MANY
    torch.testing.assert_close(shares.double(), outputs[0].softmax(-1), atol=FAR * 0.5 / MANY**0.5, rtol=0)
    shares = Bernoulli().sampled_labels(repeated(outputs), generator()).mean(0)
    torch.testing.assert_close(shares, outputs[0].sigmoid(), atol=FAR * 0.5 / MANY**0.5, rtol=0)
    numbers = Gaussian(scale=3.0).sampled_labels(repeated(outputs), generator())
    torch.testing.assert_close(numbers.mean(0), outputs[0], atol=FAR * 3 / MANY**0.5, rtol=0)
    torch.testing.assert_close(numbers.std(0), torch.full((3,), 3.0).double(), rtol=0.03, atol=0)


def test_a_pointer_never_points_at_what_does_not_count():
    outputs, counted = spoilt(random_outputs(2, 4), COUNTED), tensor(COUNTED)
    labels = Pointer().sampled_labels(outputs.repeat(500, 1), generator(), counted.repeat(500, 1)).reshape(500, 2)
    assert [set(column.tolist()) for column in labels.T] == [{0, 1, 2}, {0, 2}]


def test_losses_are_negative_log_likelihoods():
    z, c = random_outputs(5, 3), random_outputs(5, 3, seed=1)
    y = some_labels(Categorical(), z)
    wanted = -log_softmax(z.numpy(), -1)[np.arange(5), y]
    np.testing.assert_allclose(Categorical().losses(z, y), wanted)
    y = some_labels(Bernoulli(), z)
    np.testing.assert_allclose(Bernoulli().losses(z, y), -bernoulli.logpmf(y, expit(z.numpy())).sum(-1))
    likely = norm.logpdf(c, z, 0.5) - norm.logpdf(0, 0, 0.5)  # the constant is left out
    np.testing.assert_allclose(Gaussian(scale=0.5).losses(z, c), -likely.sum(-1))
    np.testing.assert_allclose(Cosine().losses(z, c), [cosine(*pair) for pair in zip(z, c, strict=True)])


def test_divergences_are_those_of_the_distributions():
    z, reference = random_outputs(5, 3).numpy(), random_outputs(5, 3, seed=1).numpy()
    softmax = [np.exp(log_softmax(values, -1)) for values in (reference, z)]
    np.testing.assert_allclose(Categorical().divergences(z, reference), entropy(*softmax, axis=-1))
    p, q = (np.stack([expit(values), expit(-values)]) for values in (reference, z))
    np.testing.assert_allclose(Bernoulli().divergences(z, reference), entropy(p, q).sum(-1))
    gap = ((z - reference) ** 2).sum(-1)
    np.testing.assert_allclose(Gaussian(scale=0.5).divergences(z, reference), gap / (2 * 0.5**2))
    apart = [cosine(*pair) for pair in zip(z, reference, strict=True)]
    np.testing.assert_allclose(Cosine().divergences(z, reference), apart)


@pytest.mark.parametrize(("objective", "shape"), [*PER_SAMPLE, *WITH_POSITIONS])
def test_divergence_is_zero_where_outputs_are_equal_and_the_loss_of_distillation_elsewhere(objective, shape):
    outputs, reference = random_outputs(2, *shape), random_outputs(2, *shape, seed=1)
    assert objective.divergence(outputs.numpy(), outputs.numpy()) == 0
    assert objective.divergence(outputs.float().numpy(), outputs.float().numpy()) == 0
    found = objective.divergence(outputs.numpy(), reference.numpy())
    predictions = 8 if objective.per_position else 2
    losses = objective.distillation_losses(outputs, reference, 1.0)
    assert losses.shape == (2,)
    assert found == pytest.approx(float(losses.sum()) / predictions)
    assert found > 0.01


@pytest.mark.parametrize(("objective", "shape"), PER_SAMPLE)
def test_a_temperature_softens_what_can_be_scaled_and_nothing_else(objective, shape):
    outputs, reference = random_outputs(5, *shape), random_outputs(5, *shape, seed=1)
    found = objective.distillation_losses(outputs, reference, 4.0)
    if objective.scalable:
        wanted = 16 * objective.distillation_losses(outputs / 4, reference / 4, 1.0)
    else:
        wanted = objective.distillation_losses(outputs, reference, 1.0)
    torch.testing.assert_close(found, wanted)


def test_labels_of_one_number_a_sample_fit_outputs_of_one_column():
    outputs, labels = random_outputs(6, 1), random_outputs(6, seed=1)
    torch.testing.assert_close(Gaussian().losses(outputs, labels), (outputs[:, 0] - labels) ** 2 / 2)


# positions that do not count


@pytest.mark.parametrize(("objective", "shape"), WITH_POSITIONS)
def test_what_does_not_count_changes_nothing(objective, shape):
    counted = tensor(COUNTED)
    outputs, reference = random_outputs(2, *shape), random_outputs(2, *shape, seed=1)
    labels = some_labels(objective, outputs)
    bad, worse = spoilt(outputs, COUNTED), spoilt(reference, COUNTED)
    bad_labels = labels if isinstance(objective, Pointer) else spoilt(labels, COUNTED)
    found = [
        objective.losses(bad, bad_labels, counted), objective.distillation_losses(bad, worse, 2.0, counted),
        torch.from_numpy(objective.divergences(bad.numpy(), worse.numpy(), COUNTED)),
    ]  # fmt: skip
    for row, mask in enumerate(counted):  # each sample alone, of nothing but what counts
        got, wanted = outputs[row : row + 1, mask], reference[row : row + 1, mask]
        points_at = isinstance(objective, Pointer)
        target = mask[: labels[row]].sum()[None] if points_at else labels[row : row + 1, mask]
        torch.testing.assert_close(found[0][row : row + 1], objective.losses(got, target))
        torch.testing.assert_close(found[1][row : row + 1], objective.distillation_losses(got, wanted, 2.0))
        assert found[2][row] == pytest.approx(objective.divergences(got.numpy(), wanted.numpy())[0])
    total = objective.divergence(bad.numpy(), worse.numpy(), COUNTED)
    assert total == pytest.approx(float(found[2].sum()) / (5 if objective.per_position else 2))


@pytest.mark.parametrize(("objective", "shape"), WITH_POSITIONS)
def test_nor_does_it_change_gradients_and_draws(objective, shape):
    counted = tensor(COUNTED)
    outputs, reference = random_outputs(2, *shape), random_outputs(2, *shape, seed=1)
    labels = some_labels(objective, outputs)
    gradients, draws = [], []
    for values in (outputs, spoilt(outputs, COUNTED)):
        given = values.clone().requires_grad_()
        loss = objective.losses(given, labels, counted) + objective.distillation_losses(given, reference, 2.0, counted)
        gradients.append(torch.autograd.grad(loss.sum(), given)[0])
        draws.append([draw(values, generator(), counted) for draw in (objective.sampled_labels, objective.fisher_probe)])
    assert torch.equal(*gradients)
    assert not gradients[0][~counted].any()
    for first, second in zip(*draws, strict=True):
        assert torch.equal(first, second)
    drawn, probe = draws[0]
    assert not probe[~counted].any()
    if objective.per_position:
        assert (drawn[~counted] == IGNORED).all()
        assert (drawn[counted] != IGNORED).all()


@pytest.mark.parametrize(("objective", "shape"), PER_POSITION)
def test_a_sample_without_any_position_that_counts_has_no_loss(objective, shape):
    outputs, counted = random_outputs(2, *shape), np.zeros((2, 4), dtype=bool)
    labels = some_labels(objective, outputs)
    assert objective.losses(outputs, labels, tensor(counted)).tolist() == [0, 0]
    assert objective.divergence(outputs.numpy(), outputs.numpy() + 1, counted) == 0
    assert not objective.fisher_probe(outputs, generator(), tensor(counted)).any()


# several outputs


SPAN = Joint({"start_logits": Pointer(), "end_logits": Pointer()})


def test_what_several_outputs_say_adds_up():
    counted = tensor(COUNTED)
    outputs, reference = (
        {name: random_outputs(2, 4, seed=seed + index) for index, name in enumerate(SPAN.parts)} for seed in (0, 2)
    )
    labels = {name: torch.tensor([1, 2]) for name in SPAN.parts}
    parts = [(name, outputs[name], reference[name]) for name in SPAN.parts]
    torch.testing.assert_close(
        SPAN.losses(outputs, labels, counted),
        sum(Pointer().losses(got, labels[name], counted) for name, got, _ in parts),
    )
    torch.testing.assert_close(
        SPAN.distillation_losses(outputs, reference, 2.0, counted),
        sum(Pointer().distillation_losses(got, wanted, 2.0, counted) for _, got, wanted in parts),
    )
    both = [{name: Output(values.numpy(), COUNTED) for name, values in given.items()} for given in (outputs, reference)]
    assert SPAN.divergence(*both) == pytest.approx(
        sum(Pointer().divergence(got.numpy(), wanted.numpy(), COUNTED) for _, got, wanted in parts)
    )
    assert SPAN.divergence(both[0], both[0]) == 0


def test_probes_of_several_outputs_have_the_hessian_of_their_sum_as_covariance():
    outputs = {name: random_outputs(1, 4, seed=seed) for seed, name in enumerate(SPAN.parts)}
    counted = tensor(COUNTED[:1])

    def loss(both):
        given = dict(zip(outputs, both.split(4, dim=1), strict=True))
        return SPAN.distillation_losses(given, outputs, 2.0, counted).sum()

    hessian = torch.autograd.functional.hessian(loss, torch.cat(list(outputs.values()), dim=1)).reshape(8, 8)
    many = {name: repeated(values) for name, values in outputs.items()}
    probes = SPAN.fisher_probe(many, generator(), repeated(counted), 2.0)
    assert_covariance(torch.cat(list(probes.values()), dim=1), hessian)


def test_labels_are_drawn_for_each_output():
    outputs = {name: repeated(random_outputs(1, 4, seed=seed)) for seed, name in enumerate(SPAN.parts)}
    labels = SPAN.sampled_labels(outputs, generator(), repeated(tensor(COUNTED[:1])))
    for name, values in labels.items():
        shares = torch.bincount(values, minlength=4) / MANY
        wanted = outputs[name][0, :3].softmax(-1)
        torch.testing.assert_close(shares[:3].double(), wanted, atol=FAR * 0.5 / MANY**0.5, rtol=0)
        assert shares[3] == 0


def test_outputs_may_have_positions_or_none_and_are_scaled_only_together():
    mixed = Joint({"tokens": Categorical(per_position=True), "score": Gaussian()})
    outputs = {"tokens": random_outputs(2, 4, 3), "score": random_outputs(2, 1)}
    labels = {"tokens": torch.zeros(2, 4, dtype=torch.long), "score": torch.zeros(2)}
    losses = mixed.losses(outputs, labels, tensor(COUNTED))
    tokens = -outputs["tokens"].log_softmax(-1)[..., 0] * tensor(COUNTED)
    torch.testing.assert_close(losses, tokens.sum(1) + outputs["score"][:, 0] ** 2 / 2)
    assert not mixed.scalable
    assert SPAN.scalable


# outputs that are kept


def gathered(objective, values, counted):
    """The samples of `values`, each from a batch of its own."""
    rows = []
    for row in range(len(values)):
        mask = None if counted is None else counted[row : row + 1]
        rows += objective.by_sample(values[row : row + 1], mask)
    return objective.gathered(rows)


@pytest.mark.parametrize(("objective", "shape"), [*PER_SAMPLE, *WITH_POSITIONS])
def test_what_is_kept_of_samples_says_what_the_batch_says(objective, shape):
    outputs, reference = random_outputs(2, *shape), random_outputs(2, *shape, seed=1)
    counted = COUNTED if (objective, shape) in WITH_POSITIONS else None
    given = [spoilt(each, counted).numpy() if counted is not None else each.numpy() for each in (outputs, reference)]
    kept = [{"output": gathered(objective, each, counted)} for each in given]
    for each in kept:
        assert np.isfinite(each["output"].values).all()
    wanted = objective.divergence(outputs.numpy(), reference.numpy(), counted)
    assert Joint({"output": objective}).divergence(*kept) == pytest.approx(wanted, rel=1e-12)


def test_only_predictions_that_count_are_kept():
    outputs = random_outputs(2, 4, 3).numpy()
    kept = gathered(Categorical(per_position=True), outputs, COUNTED)
    np.testing.assert_array_equal(kept.values, outputs[COUNTED])
    assert kept.counted is None
    whole = gathered(Categorical(per_position=True), outputs, None)
    np.testing.assert_array_equal(whole.values, outputs.reshape(8, 3))


def test_choices_among_fewer_positions_are_kept_beside_those_among_more():
    outputs = random_outputs(2, 4).numpy()
    kept = gathered(Pointer(), outputs, COUNTED)
    assert kept.counted.tolist() == [[True, True, True], [True, True, False]]
    np.testing.assert_array_equal(kept.values[kept.counted], outputs[COUNTED])


def test_a_factor_leaves_open_what_counts():
    kept = Output(np.array([[1.0, -3.0]]), np.array([[True, False]])).times(2.0)
    assert kept.values.tolist() == [[2.0, -6.0]]
    assert kept.counted.tolist() == [[True, False]]


def test_outputs_differ_by_what_the_worst_of_them_differs():
    wanted = {"start": Output(np.array([[1.0, -5.0]])), "end": Output(np.array([[0.0, 2.0]]))}
    said = {"start": Output(np.array([[1.0, -5.1]])), "end": Output(np.array([[0.5, 2.0]]))}
    assert difference_of(said, wanted) == 0.5
    assert difference_of({name: said["start"] if name == "start" else each for name, each in wanted.items()}, wanted) == (
        pytest.approx(0.1)
    )
    assert largest_of(wanted) == 5.0


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("measure", [difference_of, lambda outputs, _: largest_of(outputs)])
def test_no_number_is_never_lost_among_other_outputs(name, measure):
    wanted = {"start": Output(np.ones((1, 2))), "end": Output(np.ones((1, 2)))}
    assert np.isnan(measure({**wanted, name: Output(np.array([[1.0, np.nan]]))}, wanted))
