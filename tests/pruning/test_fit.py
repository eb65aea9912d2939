import numpy as np
import pytest
import synthetic
from synthetic import blocks_in

from prune2deploy.budget import Budget
from prune2deploy.errors import CheckFailedError, InputError, UnreachableBudgetError
from prune2deploy.models.plan import Plan
from prune2deploy.pruning.search.costs import LatencyCosts
from prune2deploy.pruning.search.fit import AIM, ROUNDS, fit_to_engine, floor_of, refuse_silly
from prune2deploy.pruning.search.knapsack import choose_widths
from prune2deploy.pruning.statistics.importance import fisher_importance

SIGNATURE = synthetic.signature(layers=6, heads=12, filters=1024, hidden=96)
BLOCKS = blocks_in(SIGNATURE)
TABLE = synthetic.latency_table(SIGNATURE, fixed=3.0, head=0.2, filters=4.0, step=32)
IMPORTANCE = fisher_importance(synthetic.random_scores(SIGNATURE, 0))
COSTS = LatencyCosts(TABLE)


def search(target):
    widths = choose_widths(IMPORTANCE, COSTS, target)
    return Plan.of(SIGNATURE, {block: IMPORTANCE[block].kept(width) for block, width in widths.items()})


class Engine:
    """Measures what the table says, but for a bias, noise, and a machine of another clock."""

    def __init__(self, bias=0.0, noise=0.0, clock=1.0):
        self.bias, self.noise, self.clock = bias, noise, clock
        self.rng = np.random.default_rng(0)
        self.plans = []

    def __call__(self, plan):
        self.plans.append(plan)
        wobble = 1 + self.noise * self.rng.uniform(-1, 1)
        true = TABLE.predict_ms(plan.widths_by_key()) * (1 + self.bias)
        return self.clock * true * wobble, self.clock * TABLE.dense_ms


def fit(budget, measure, **options):
    progress = synthetic.FakeProgress()
    return (*fit_to_engine(search, measure, TABLE, budget, progress, **options), progress)


BUDGETS = [
    Budget(kind="latency_ms", value=0.6 * TABLE.dense_ms), Budget(kind="speedup", value=1.5),
    Budget(kind="speedup", value=3),
]  # fmt: skip


@pytest.mark.parametrize("bias", [-0.08, -0.04, 0.0, 0.03, 0.08])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_the_result_uses_the_budget_and_keeps_to_it(budget, bias):
    engine = Engine(bias, noise=0.003)
    best, rounds, progress = fit(budget, engine)
    limit = budget.limit_ms(TABLE.dense_ms)
    assert 0.95 * limit <= best.measured_ms <= limit
    assert 0.95 * limit <= TABLE.predict_ms(best.plan.widths_by_key()) * (1 + bias) <= limit  # the truth, without noise
    assert best.used == pytest.approx(best.measured_ms / limit)
    assert best.predicted_ms == pytest.approx(TABLE.predict_ms(best.plan.widths_by_key()))
    assert best in rounds
    assert [round_.plan for round_ in rounds] == engine.plans
    assert len(progress.notes) == len(rounds) <= ROUNDS


def test_one_round_is_enough_where_the_table_is_right():
    _, rounds, _ = fit(BUDGETS[0], Engine())
    assert len(rounds) == 1


@pytest.mark.parametrize("clock", [1.7, 1 / 1.7])
@pytest.mark.parametrize("bias", [-0.05, 0.05])
def test_a_machine_of_another_clock_than_the_tables(clock, bias):
    engine = Engine(bias, noise=0.003, clock=clock)
    milliseconds = Budget(kind="latency_ms", value=0.5 * clock * TABLE.dense_ms)
    best, rounds, _ = fit(milliseconds, engine)
    assert 0.95 * milliseconds.value <= best.measured_ms <= milliseconds.value
    assert best.dense_ms == pytest.approx(clock * TABLE.dense_ms)
    assert len(rounds) > 1
    speedup = Budget(kind="speedup", value=2)
    best, rounds, progress = fit(speedup, engine)
    assert 0.95 <= 2 * best.measured_ms / (clock * TABLE.dense_ms) <= 1
    assert f"predicted {clock * rounds[0].predicted_ms:.2f} ms" in progress.notes[0]


def test_another_aim_leaves_more_room():
    best, _, _ = fit(BUDGETS[0], Engine(0.0), aim=AIM - 0.05)
    assert 0.90 <= best.used <= 0.945


def test_no_engine_that_meets_the_budget():
    budget = BUDGETS[0]
    engine = Engine(bias=12.0)  # not even the empty model meets the budget
    with pytest.raises(CheckFailedError, match="not met") as caught:
        fit(budget, engine)
    measured = [13 * TABLE.predict_ms(plan.widths_by_key()) for plan in engine.plans]
    assert f"{min(measured):.3g} ms ({100 * min(measured) / budget.value:.0f} %" in str(caught.value)
    assert str(budget) in str(caught.value)
    assert len({str(plan.kept) for plan in engine.plans}) == len(engine.plans) <= ROUNDS


# which round wins


def scripted(shares, budget, **options):
    """A search that never repeats itself, and a measurement that gives these shares of the budget, one a round."""
    served = iter(shares)
    plans = iter(range(100))

    def another(target):
        return Plan.of(SIGNATURE, {block: [next(plans)] if block == BLOCKS[1] else [] for block in BLOCKS})

    def measure(plan):
        return next(served) * budget.limit_ms(TABLE.dense_ms), TABLE.dense_ms

    return fit_to_engine(another, measure, TABLE, budget, synthetic.FakeProgress(), **options)


@pytest.mark.parametrize(
    ("shares", "used", "rounds"),
    [
        ([1.05, 0.90, 0.94, 1.2, 0.93, 1.01, 0.97], 0.94, 3),
        ([1.3, 0.97, 0.98], 0.97, 2),
        ([0.9, 0.988, 0.8, 0.999, 1.0, 1.01], 0.988, 3),
        ([0.9, 0.997, 0.8, 0.999, 1.0, 1.01], 0.9, 6),
    ],
)
def test_the_best_use_of_the_budget_wins_and_a_good_one_ends_it(shares, used, rounds):
    best, all_rounds = scripted(shares, BUDGETS[0])
    assert best.used == pytest.approx(used)
    assert len(all_rounds) == rounds


@pytest.mark.parametrize(("shares", "aim"), [([0.988, 0.97], AIM), ([0.975, 0.951], AIM - 0.024)])
def test_an_accepted_round_wins_over_one_nearer_to_the_budget(shares, aim):
    best, _ = scripted(shares, BUDGETS[0], aim=aim)
    assert best.used == pytest.approx(shares[-1])


@pytest.mark.parametrize("share", [0.997, 1.0, 1.2])
def test_too_near_to_the_budget_is_not_within_it(share):
    with pytest.raises(CheckFailedError, match=f"{100 * share:.0f} %"):
        scripted([share] * ROUNDS, BUDGETS[0])


def test_a_plan_that_comes_again_ends_the_search():
    only = search(0.5 * TABLE.dense_ms)
    measured = []

    def measure(plan):
        measured.append(plan)
        return 0.5 * TABLE.dense_ms, TABLE.dense_ms

    best, rounds = fit_to_engine(lambda target: only, measure, TABLE, BUDGETS[0], synthetic.FakeProgress())
    assert len(rounds) == len(measured) == 1
    assert best.plan == only


# budgets that make no sense


def never(plan):
    raise AssertionError("nothing is to be measured")


def test_the_limit_of_a_sensible_budget():
    assert refuse_silly(TABLE, Budget(kind="latency_ms", value=20)) == 20
    assert refuse_silly(TABLE, Budget(kind="speedup", value=2)) == pytest.approx(TABLE.dense_ms / 2)
    assert floor_of(TABLE) == TABLE.fixed_ms


@pytest.mark.parametrize("value", [TABLE.dense_ms, 1000.0])
def test_a_budget_above_dense_is_refused(value):
    with pytest.raises(InputError, match=rf"asks for nothing.*{TABLE.dense_ms:.3g} ms"):
        fit(Budget(kind="latency_ms", value=value), never)


@pytest.mark.parametrize("clock", [0.6, 1.0, 1.7])
def test_milliseconds_are_judged_by_todays_clock_and_not_the_tables(clock):
    dense = clock * TABLE.dense_ms
    best, _, _ = fit(Budget(kind="latency_ms", value=0.6 * dense), Engine(clock=clock), dense_ms=dense)
    assert 0.95 <= best.measured_ms / (0.6 * dense) <= 1
    assert refuse_silly(TABLE, Budget(kind="latency_ms", value=0.6 * dense), dense) == pytest.approx(0.6 * TABLE.dense_ms)
    with pytest.raises(InputError, match=rf"asks for nothing.*{dense:.3g} ms"):
        fit(Budget(kind="latency_ms", value=1.01 * dense), never, dense_ms=dense)
    with pytest.raises(UnreachableBudgetError) as caught:
        fit(Budget(kind="latency_ms", value=0.9 * clock * TABLE.fixed_ms), never, dense_ms=dense)
    assert caught.value.reachable == pytest.approx(clock * TABLE.fixed_ms)


def test_milliseconds_below_the_floor_are_refused():
    with pytest.raises(UnreachableBudgetError, match=r"2\.9 ms is out of reach.* 3 ms") as caught:
        fit(Budget(kind="latency_ms", value=2.9), never)
    assert caught.value.reachable == TABLE.fixed_ms


def test_a_speedup_beyond_the_floor_is_refused():
    reachable = TABLE.dense_ms / TABLE.fixed_ms
    with pytest.raises(InputError, match=rf"speedup of 50 is out of reach.* {reachable:.3g} times"):
        fit(Budget(kind="speedup", value=50), never)


@pytest.mark.parametrize("bias", [0.0, -0.01])
def test_a_budget_just_above_the_floor_removes_every_block(bias):
    best, _, _ = fit(Budget(kind="latency_ms", value=3.05), Engine(bias))
    assert best.plan == Plan.of(SIGNATURE, {block: [] for block in BLOCKS})
