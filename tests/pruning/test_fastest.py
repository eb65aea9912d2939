import numpy as np
import pytest
from said import logits_of
from steady import answer, cli, files_in, interrupted, refused

from prune2deploy import closed_loop
from prune2deploy.budget import Budget
from prune2deploy.config import load_project
from prune2deploy.exporting import stage as exporting
from prune2deploy.models.checkpoint import load, read_pruned_record
from prune2deploy.pruning import fastest as module
from prune2deploy.pruning.fastest import PRECISE, UnseenLoss, fastest
from prune2deploy.pruning.shelf import Shelf
from prune2deploy.pruning.workbench import Workbench
from prune2deploy.tasks.paired import Loss

pytest_plugins = ("made",)


class Losing:
    """Stands for UnseenLoss: what a model loses grows with its speedup."""

    def __init__(self, per_speedup):
        self.per_speedup, self.error, self.asked = per_speedup, 0.01, []

    def __call__(self, directory):
        self.asked.append(read_pruned_record(directory).provenance.budget.value)
        return Loss(self.per_speedup * (self.asked[-1] - 1), self.error, 100)


@pytest.fixture
def losing(monkeypatch):
    found = Losing(1.0)
    monkeypatch.setattr(module, "UnseenLoss", lambda workbench: found)
    return found


def test_the_fastest_within_the_loss_is_found(work, clock, losing):
    project = load_project()
    shelf = Shelf(Workbench(project))
    found = read_pruned_record(fastest(shelf, 0.8)).provenance.budget.value
    assert 1.8 / PRECISE**2 <= found <= 1.8
    assert found == max(speedup for speedup in losing.asked if speedup - 1 <= 0.8)


def test_prune_without_a_budget(work, clock, losing):
    record = answer(cli("prune", "--max-loss", 0.8, "--json"))
    assert record["provenance"]["budget"]["kind"] == "speedup"
    assert record["provenance"]["budget"]["value"] <= 1.8
    assert read_pruned_record(work / "pruned").weights_sha256 == record["weights_sha256"]
    assert not list((work / ".prune2deploy" / "pruned").iterdir())


def test_where_every_model_loses_more_nothing_is_written(work, clock, losing):
    losing.per_speedup = 1e6
    before = files_in(work)
    refused(cli("prune", "--max-loss", 1), "loses at most 1 points", "the one that lost least lost", code=1)
    assert files_in(work) == before


def test_stopped_it_does_not_prune_again_what_it_had(work, clock, losing, monkeypatch):
    pruned = interrupted(monkeypatch, 3)
    refused(cli("prune", "--max-loss", 0.8), "stopped", code=130)
    answer(cli("prune", "--max-loss", 0.8, "--json"))
    assert len(pruned) == len(set(pruned)) + 1
    assert pruned[3] == pruned[2]


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["--max-loss", -1], "0 or more"),
        (["--max-loss", "nan"], "0 or more"),
        (["--max-loss", 1, "--speedup", 2], "one of a budget and --max-loss"),
    ],
)
def test_losses_without_sense(arguments, needle, work, clock):
    refused(cli("prune", *arguments), needle)
    assert clock.asked == []


def test_loss_is_that_of_the_task_metric_on_samples_never_seen(work, clock):
    workbench = Workbench(load_project())
    loss_of = UnseenLoss(workbench)
    seen = {str(part) for part in texts(workbench.samples) + texts(workbench.held_out)}
    assert len(loss_of.samples) == 40 - len(workbench.samples) - len(workbench.held_out)
    assert not seen & {str(part) for part in texts(loss_of.samples)}

    directory = Shelf(workbench).at(Budget(kind="speedup", value=1.5))
    labels, lost = loss_of.samples.labels, loss_of(directory)
    right = [
        (logits_of(model, workbench.task, loss_of.samples).argmax(-1) == labels).mean()
        for model in (workbench.model, load(directory))
    ]
    assert lost.points == pytest.approx(100 * (right[0] - right[1]))
    assert lost.n == len(labels)


def test_a_loss_that_is_not_known_well_enough_is_said_to_be(work, clock, losing):
    losing.error = 0.5
    result = cli("prune", "--max-loss", 0.8)
    assert result.exit_code == 0
    said = " ".join(result.stderr.split())
    assert "± 0.50 points" in said
    assert "on other samples it may well be more than 0.8" in said


def texts(samples):
    batch = samples.batch(list(range(len(samples))))
    return [tuple(row[row > 0]) for row in np.asarray(batch.inputs["input_ids"])]


def test_samples_that_calibration_leaves(case):
    total = len(case.task.calibration(10_000, seed=0))
    assert case.task.reserve(5, 0, total) is None
    taken, left = case.task.calibration(total - 6, seed=3), case.task.reserve(100, 3, total - 6)
    assert len(left) == 6
    assert len(case.task.reserve(4, 3, total - 6)) == 4
    assert len({taken.digest(), left.digest()}) == 2


# run


def test_run_without_a_budget_takes_the_fastest(work, clock, losing):
    report = answer(cli("run", "--max-loss", 80, "--name", "topics", "--json"))
    assert report["verdict"] == "passed"
    assert {check["name"] for check in report["checks"]} >= {"at most 80 points lost"}
    assert report["budget"]["value"] == max(losing.asked)


def test_run_goes_slower_where_the_evaluation_split_disagrees(work, clock, losing, monkeypatch):
    verdicts = iter([False, True])
    real = exporting.assess

    def assess(subject, *args, **kwargs):
        report = real(subject, *args, **kwargs)
        passed = next(verdicts)
        checks = [
            check.model_copy(update={"passed": passed}) if check.name.endswith("points lost") else check
            for check in report.checks
        ]
        return report.model_copy(update={"checks": checks, "verdict": "passed" if passed else "failed"})

    monkeypatch.setattr(exporting, "assess", assess)
    report = answer(cli("run", "--max-loss", 0.8, "--name", "topics", "--json"))
    found = max(speedup for speedup in losing.asked if speedup - 1 <= 0.8)
    assert report["budget"]["value"] == round(closed_loop.SLOWER * found, 2)


def test_run_with_neither_budget_nor_loss(work, clock):
    refused(cli("run"), "--latency-ms")
