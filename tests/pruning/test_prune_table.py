import json

import pytest
import synthetic
import tiny

import prune2deploy.pruning.workbench as stage
from prune2deploy.budget import Budget
from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError, UnreachableBudgetError
from prune2deploy.files import write_record
from prune2deploy.models.family import blocks_of
from prune2deploy.pruning.methods.registry import METHODS
from prune2deploy.pruning.stage import prune
from prune2deploy.pruning.workbench import AWAY_MARGIN


@pytest.fixture
def forbid_measuring(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("nothing is to be measured here")

    for name in ("EngineBench", "runtime_for", "fit_to_engine"):
        monkeypatch.setattr(stage, name, fail)


def table_file(case, tmp_path, **changes):
    values = {"of": tiny.signature_of(case.model), "points": case.project.workload, **changes}
    table = synthetic.latency_table(**values)
    write_record(tmp_path / "theirs.json", table)
    return table, tmp_path / "theirs.json"


@pytest.mark.parametrize("method", ["ours", "fisher", "kwon"])
@pytest.mark.parametrize("kind", ["latency_ms", "speedup"])
@pytest.mark.usefixtures("forbid_measuring")
def test_with_a_table_from_elsewhere_a_margin_is_kept(case, tmp_path, kind, method):
    table, path = table_file(case, tmp_path, fixed=1.0)
    budget = Budget(kind=kind, value=0.6 * table.dense_ms if kind == "latency_ms" else 1 / 0.6)
    record = prune(case.project, budget, tmp_path / "out", method=method, table=path)
    predicted = table.predict_ms(record.plan.widths_by_key())
    assert 0.85 * 0.6 * table.dense_ms < predicted <= (1 - AWAY_MARGIN) * 0.6 * table.dense_ms + 1e-9
    assert record.provenance.predicted_ms == pytest.approx(predicted)
    assert (record.provenance.table, record.provenance.device) == ("theirs.json", "Their CPU")
    assert record.provenance.fitted == []
    if method != "kwon":
        assert all(record.plan.width(b) in table.widths(b.curve) for b in blocks_of(case.model))


@pytest.mark.usefixtures("forbid_measuring")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"of": synthetic.signature(layers=3, filters=128)}, "made for model"),
        ({"points": [WorkloadPoint(batch=7, seq_len=7)]}, "batch 7"),
        ({"precision": "fp16"}, "fp16"),
    ],
)
def test_a_table_for_something_else(case, tmp_path, changes, problem):
    _, path = table_file(case, tmp_path, **changes)
    with pytest.raises(InputError, match=problem):
        prune(case.project, Budget(kind="speedup", value=1.5), tmp_path / "out", table=path)
    assert not (tmp_path / "out").exists()


def test_a_missing_or_damaged_table(case, tmp_path):
    budget = Budget(kind="speedup", value=1.5)
    with pytest.raises(InputError, match="no latency table"):
        prune(case.project, budget, tmp_path / "out", table=tmp_path / "none.json")
    _, path = table_file(case, tmp_path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "points": []}))
    with pytest.raises(InputError, match="not a valid latency table"):
        prune(case.project, budget, tmp_path / "out", table=path)


def test_budgets_out_of_reach_are_refused_before_calibration(case, tmp_path, monkeypatch):
    table, path = table_file(case, tmp_path, fixed=2.0)
    monkeypatch.setattr(METHODS["ours"], "__init__", None)  # not to be called
    for budget, kind, number in (
        (Budget(kind="latency_ms", value=1.9), UnreachableBudgetError, "2 ms"),
        (Budget(kind="latency_ms", value=99), InputError, f"{table.dense_ms:.3g} ms"),
        (Budget(kind="speedup", value=99), InputError, f"{table.dense_ms / 2:.3g} times"),
    ):
        with pytest.raises(kind, match=number):
            prune(case.project, budget, tmp_path / "out", table=path)
    assert not (tmp_path / "out").exists()


def test_the_budget_that_the_error_asks_for_is_taken(case, tmp_path):
    table, path = table_file(case, tmp_path, fixed=2.0)
    assert table.fixed_ms == 2.0
    with pytest.raises(UnreachableBudgetError, match="ask for that or more") as caught:
        prune(case.project, Budget(kind="latency_ms", value=1.9), tmp_path / "out", table=path)
    prune(case.project, Budget(kind="latency_ms", value=caught.value.reachable), tmp_path / "out", table=path)
