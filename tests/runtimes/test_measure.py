import numpy as np
import pytest

from prune2deploy.errors import UnstableMeasurementError
from prune2deploy.progress import Progress
from prune2deploy.runtimes.measure import BLOCK, BURST, PATIENCE, interleaved


class Machine:
    """Pretends to run engines: a run takes its true time, times the machine's drift, times noise."""

    def __init__(self, true_ms, noise=0.02, drift=lambda run: 1.0):
        self.true_ms = true_ms
        self.noise = noise
        self.drift = drift
        self.rng = np.random.default_rng(0)
        self.calls = dict.fromkeys(true_ms, 0)
        self.order = []

    def runs(self):
        return {name: lambda name=name: self.run(name) for name in self.true_ms}

    def run(self, name):
        self.calls[name] += 1
        self.order.append(name)
        return float(self.true_ms[name] * self.drift(len(self.order)) * self.rng.lognormal(0, self.noise))


def measured(machine, rounds, reference="dense", **options):
    return interleaved(machine.runs(), reference, rounds, Progress(), "timing", **options)


TRUE = {"dense": 10.0, "half": 5.2, "empty": 0.8}


def test_steady_machine():
    timings = measured(Machine(TRUE, noise=0), 8)
    for name, true_ms in TRUE.items():
        assert timings[name].median_ms == pytest.approx(true_ms)
        assert timings[name].ratio == pytest.approx(true_ms / 10)
        assert timings[name].p90_ms == timings[name].p95_ms == pytest.approx(true_ms)
        assert timings[name].spread == pytest.approx(0)
        assert timings[name].standard_error_ms == pytest.approx(0)
        assert timings[name].n == 8 * BURST


def drifts():
    return {
        "slow warming": lambda run: 1 + 0.3 * min(1, run / 400),
        "waves": lambda run: 1 + 0.15 * np.sin(run / 12),
        "a slow spell": lambda run: 1.6 if 100 <= run < 220 else 1.0,
    }


@pytest.mark.parametrize("drift", drifts().values(), ids=drifts())
def test_ratios_survive_what_slows_the_whole_machine(drift):
    timings = measured(Machine(TRUE, drift=drift), 60)
    for name, true_ms in TRUE.items():
        assert timings[name].ratio == pytest.approx(true_ms / 10, rel=0.03)
        assert timings[name].median_ms / timings["dense"].median_ms == pytest.approx(true_ms / 10, rel=0.03)
    assert timings["dense"].ratio == 1
    assert timings["half"].own_spread > timings["half"].spread


def test_rare_outliers_change_the_tail_and_not_the_median():
    machine = Machine(TRUE, drift=lambda run: 5.0 if run % 11 == 0 else 1.0)
    timings = measured(machine, 60)
    assert timings["half"].median_ms == pytest.approx(5.2, rel=0.03)
    assert timings["half"].p95_ms > 20
    assert timings["half"].p90_ms <= timings["half"].p95_ms


def test_standard_error_covers_the_truth_and_falls_with_rounds():
    few, many = (measured(Machine(TRUE, noise=0.1), rounds)["half"] for rounds in (20, 320))
    assert abs(many.median_ms - 5.2) < 6 * many.standard_error_ms
    assert 0 < many.standard_error_ms < few.standard_error_ms / 2


def test_every_engine_is_visited_in_every_round_after_a_warm_up():
    machine = Machine(TRUE)
    measured(machine, 12)
    assert machine.calls == dict.fromkeys(TRUE, 1 + 12 * (1 + BURST))
    visits = machine.order[len(TRUE) :: 1 + BURST]
    rounds = [tuple(visits[start : start + len(TRUE)]) for start in range(0, len(visits), len(TRUE))]
    assert all(sorted(visited) == sorted(TRUE) for visited in rounds)
    assert len(set(rounds)) > 2, "the order is not always the same"


def test_order_depends_on_the_seed_only():
    machines = [Machine(TRUE) for _ in range(3)]
    for machine, seed in zip(machines, (0, 0, 1), strict=True):
        measured(machine, 10, seed=seed)
    assert machines[0].order == machines[1].order
    assert machines[0].order != machines[2].order


def test_progress_hears_of_every_round():
    class Counting(Progress):
        rounds = 0

        def track(self, description, total):
            from contextlib import nullcontext

            assert (description, total) == ("timing", 7)
            return nullcontext(self.advance)

        def advance(self):
            self.rounds += 1

    progress = Counting()
    interleaved(Machine(TRUE).runs(), "dense", 7, progress, "timing")
    assert progress.rounds == 7


def test_reference_that_settles_late_is_measured_until_it_does():
    per_round = len(TRUE) * (1 + BURST)
    settled_after = 40 * per_round
    machine = Machine(TRUE, drift=lambda run: 2.0 if run < settled_after else 1.0)
    timings = measured(machine, 3 * BLOCK + 15)
    rounds = timings["dense"].n // BURST
    assert 3 * BLOCK + 15 < rounds < PATIENCE * (3 * BLOCK + 15)
    assert timings["dense"].median_ms == pytest.approx(10, rel=0.02)
    assert timings["half"].median_ms == pytest.approx(5.2, rel=0.03)


def test_reference_that_never_settles_is_refused():
    machine = Machine(TRUE, drift=lambda run: 1.0006**run)
    with pytest.raises(UnstableMeasurementError, match="speed is unstable") as caught:
        measured(machine, 3 * BLOCK)
    assert "\n" not in str(caught.value)
    rounds = (machine.calls["dense"] - 1) // (1 + BURST)
    assert rounds == PATIENCE * 3 * BLOCK


def test_short_look_is_not_judged():
    timings = measured(Machine(TRUE, drift=lambda run: 1.002**run), 3 * BLOCK - 1)
    assert timings["dense"].n == (3 * BLOCK - 1) * BURST


class Watched:
    """A watch that saw this problem."""

    def __init__(self, problem):
        self.problem = problem

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None


def test_what_was_measured_on_a_disturbed_machine_does_not_count():
    assert measured(Machine(TRUE), 5, watch=Watched(None))["dense"].n == 5 * BURST
    with pytest.raises(UnstableMeasurementError, match="the machine is busy; run this again when nothing disturbs it"):
        measured(Machine(TRUE), 5, watch=Watched("the machine is busy"))
