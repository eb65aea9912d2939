import pytest
from pydantic import ValidationError

from prune2deploy.budget import Budget
from prune2deploy.errors import InputError


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [((3.5, None, None), "latency_ms", 3.5), ((None, 2, None), "speedup", 2), ((None, None, 0.4), "flops", 0.4)],
)
def test_the_one_budget_given(given, kind, value):
    budget = Budget.of(*given)
    assert (budget.kind, budget.value) == (kind, value)


def test_flops_may_be_left_out():
    assert Budget.of(None, 1.5) == Budget(kind="speedup", value=1.5)


@pytest.mark.parametrize("given", [(None, None, None), (3.0, 2.0, None), (None, 2.0, 0.5), (3.0, 2.0, 0.5)])
def test_none_and_several_are_refused(given):
    with pytest.raises(InputError, match=r"one budget.*--latency-ms.*--speedup.*--flops"):
        Budget.of(*given)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("place", "option"), [(0, "--latency-ms"), (1, "--speedup"), (2, "--flops")])
def test_what_is_no_number_above_zero_is_refused(value, place, option):
    given = [None, None, None]
    given[place] = value
    with pytest.raises(InputError, match=rf"{option} .*above 0"):
        Budget.of(*given)


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_a_speedup_that_is_none_is_refused(value):
    with pytest.raises(InputError, match=rf"--speedup {value:g}: .*larger than 1"):
        Budget.of(None, value)


@pytest.mark.parametrize("value", [1.0, 50.0])
def test_a_share_that_is_none_is_refused(value):
    with pytest.raises(InputError, match=rf"--flops {value:g}: .*below 1"):
        Budget.of(None, None, value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kind": "speedup", "value": 1}, "larger than 1"),
        ({"kind": "flops", "value": 1}, "smaller than 1"),
        ({"kind": "latency_ms", "value": 0}, "greater than 0"),
        ({"kind": "latency_ms", "value": float("nan")}, "finite|greater than 0"),
        ({"kind": "energy", "value": 1}, "latency_ms"),
        ({"kind": "flops", "value": 0.5, "more": 1}, "[Ee]xtra"),
    ],
)
def test_a_damaged_record_is_refused(values, problem):
    with pytest.raises(ValidationError, match=problem):
        Budget.model_validate(values)


def test_the_limit_in_milliseconds():
    assert Budget(kind="latency_ms", value=7).limit_ms(100) == 7
    assert Budget(kind="speedup", value=2.5).limit_ms(100) == pytest.approx(40)


def test_as_text():
    assert str(Budget(kind="latency_ms", value=3.5)) == "3.5 ms"
    assert str(Budget(kind="speedup", value=2)) == "2× speedup"
    assert str(Budget(kind="flops", value=0.25)) == "0.25 of the dense FLOPs"
