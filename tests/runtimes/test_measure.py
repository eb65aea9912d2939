import numpy as np
import pytest

from prune2deploy.errors import UnstableMeasurementError
from prune2deploy.progress import Progress
from prune2deploy.runtimes import measure
from prune2deploy.runtimes.measure import BLOCK, BURST, OTHERS_LIMIT, PATIENCE, OtherLoad, interleaved


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


def test_steady_machine(quiet):
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
def test_ratios_survive_what_slows_the_whole_machine(quiet, drift):
    timings = measured(Machine(TRUE, drift=drift), 60)
    for name, true_ms in TRUE.items():
        assert timings[name].ratio == pytest.approx(true_ms / 10, rel=0.03)
        assert timings[name].median_ms / timings["dense"].median_ms == pytest.approx(true_ms / 10, rel=0.03)
    assert timings["dense"].ratio == 1
    assert timings["half"].own_spread > timings["half"].spread


def test_rare_outliers_change_the_tail_and_not_the_median(quiet):
    machine = Machine(TRUE, drift=lambda run: 5.0 if run % 11 == 0 else 1.0)
    timings = measured(machine, 60)
    assert timings["half"].median_ms == pytest.approx(5.2, rel=0.03)
    assert timings["half"].p95_ms > 20
    assert timings["half"].p90_ms <= timings["half"].p95_ms


def test_standard_error_covers_the_truth_and_falls_with_rounds(quiet):
    few, many = (measured(Machine(TRUE, noise=0.1), rounds)["half"] for rounds in (20, 320))
    assert abs(many.median_ms - 5.2) < 6 * many.standard_error_ms
    assert 0 < many.standard_error_ms < few.standard_error_ms / 2


def test_every_engine_is_visited_in_every_round_after_a_warm_up(quiet):
    machine = Machine(TRUE)
    measured(machine, 12)
    assert machine.calls == dict.fromkeys(TRUE, 1 + 12 * (1 + BURST))
    visits = machine.order[len(TRUE) :: 1 + BURST]
    rounds = [tuple(visits[start : start + len(TRUE)]) for start in range(0, len(visits), len(TRUE))]
    assert all(sorted(visited) == sorted(TRUE) for visited in rounds)
    assert len(set(rounds)) > 2, "the order is not always the same"


def test_order_depends_on_the_seed_only(quiet):
    machines = [Machine(TRUE) for _ in range(3)]
    for machine, seed in zip(machines, (0, 0, 1), strict=True):
        measured(machine, 10, seed=seed)
    assert machines[0].order == machines[1].order
    assert machines[0].order != machines[2].order


def test_progress_hears_of_every_round(quiet):
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


def test_reference_that_settles_late_is_measured_until_it_does(quiet):
    per_round = len(TRUE) * (1 + BURST)
    settled_after = 40 * per_round
    machine = Machine(TRUE, drift=lambda run: 2.0 if run < settled_after else 1.0)
    timings = measured(machine, 3 * BLOCK + 15)
    rounds = timings["dense"].n // BURST
    assert 3 * BLOCK + 15 < rounds < PATIENCE * (3 * BLOCK + 15)
    assert timings["dense"].median_ms == pytest.approx(10, rel=0.02)
    assert timings["half"].median_ms == pytest.approx(5.2, rel=0.03)


def test_reference_that_never_settles_is_refused(quiet):
    machine = Machine(TRUE, drift=lambda run: 1.0006**run)
    with pytest.raises(UnstableMeasurementError, match="speed is unstable") as caught:
        measured(machine, 3 * BLOCK)
    assert "\n" not in str(caught.value)
    rounds = (machine.calls["dense"] - 1) // (1 + BURST)
    assert rounds == PATIENCE * 3 * BLOCK


def test_short_look_is_not_judged(quiet):
    timings = measured(Machine(TRUE, drift=lambda run: 1.002**run), 3 * BLOCK - 1)
    assert timings["dense"].n == (3 * BLOCK - 1) * BURST


@pytest.mark.parametrize(("cores", "refused"), [(OTHERS_LIMIT + 0.1, True), (OTHERS_LIMIT - 0.1, False)])
def test_busy_machine_is_refused(monkeypatch, cores, refused):
    monkeypatch.setattr(OtherLoad, "__exit__", lambda self, *exception: setattr(self, "cores", cores))
    if not refused:
        assert measured(Machine(TRUE), 5)["dense"].n == 5 * BURST
        return
    with pytest.raises(
        UnstableMeasurementError, match=r"machine is busy: other processes used 0\.6 cores"
    ) as caught:
        measured(Machine(TRUE), 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("after", "cores"),
    [((10.0, 14.0, 4.0), 1.0), ((10.0, 4.0, 4.0), 0.0), ((10.0, 3.9, 4.0), 0.0), ((10.0, 30.0, 10.0), 2.0)],
)
def test_other_load_is_what_is_busy_without_us(monkeypatch, after, cores):
    readings = iter([(0.0, 0.0, 0.0), after])
    monkeypatch.setattr(measure.OtherLoad, "_read", staticmethod(lambda: next(readings)))
    with OtherLoad() as load:
        pass
    assert load.cores == pytest.approx(cores)


def test_other_load_reads_this_machine():
    with OtherLoad() as load:
        sum(range(1000))
    assert 0 <= load.cores < float("inf")
