"""Work that was cut short goes on where it was, and is never seen half done."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import tiny
from steady import BLOCKS, CANDIDATE, answer, cli, files_in, refused, rewrite, upgraded

from prune2deploy import closed_loop
from prune2deploy.errors import UnstableMeasurementError
from prune2deploy.models.checkpoint import PLAN_FILE
from prune2deploy.pruning import workbench as pruning
from prune2deploy.pruning.statistics import moments
from prune2deploy.pruning.workbench import Workbench

pytest_plugins = ("made",)

RUN = ("run", "--speedup", 1.5, "--name", "topics")
HALF = ("prune", "--flops", 0.5, "--out", "half")


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def stopped(patch, where, name, *command):
    """Run `command` until it calls `where.name`."""
    with patch.context() as until:
        until.setattr(where, name, interrupt)
        refused(cli(*command), "the same command goes on from the parts that were finished", code=130)


def counted(patch, where, name):
    """The calls of `where.name` from here on."""
    calls, real = [], getattr(where, name)

    def call(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    patch.setattr(where, name, call)
    return calls


@pytest.fixture
def unprofiled(work):
    shutil.rmtree(work / "profiles")
    shutil.rmtree(work / ".prune2deploy")
    return work


@pytest.fixture
def statistics(work):
    """The folder of statistics, as an earlier run left it."""
    [path] = (work / ".prune2deploy" / "prune").rglob("moments")
    return path


# a run


def test_run_stopped_after_profiling_does_not_profile_again(unprofiled, bert_made, clock, monkeypatch):
    stopped(monkeypatch, Workbench, "prune_to", *RUN)
    assert clock.count(BLOCKS) == len(BLOCKS)
    assert {name.partition("/")[0] for name in files_in(unprofiled)} == {"profiles", "prune2deploy.toml"}
    [table] = (unprofiled / "profiles").rglob("*.json")
    measured = table.read_bytes()

    report = answer(cli(*RUN, "--json"))
    assert clock.count(BLOCKS) == len(BLOCKS)
    assert table.read_bytes() == measured
    assert report["widths"] == bert_made.said["run"]["widths"]


def test_run_stopped_after_pruning_does_not_prune_again(work, clock, monkeypatch):
    stopped(monkeypatch, closed_loop, "export", *RUN)
    [pruned] = (work / ".prune2deploy" / "pruned").glob("*/1.5x-*")
    record = json.loads((pruned / PLAN_FILE).read_text(encoding="utf-8"))
    candidates = clock.count(CANDIDATE)
    assert candidates > 0
    assert not (work / "model_repository").exists()

    prunes = counted(monkeypatch, Workbench, "prune_to")
    report = answer(cli(*RUN, "--json"))
    assert prunes == []
    assert clock.count(CANDIDATE) == candidates
    manifest = json.loads((work / "model_repository" / "topics" / "1" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["weights_sha256"] == record["weights_sha256"]
    assert report["verdict"] == "passed"
    assert not pruned.exists()


@pytest.mark.parametrize(
    "other", [("run", "--speedup", 1.3, "--name", "topics"), (*RUN, "--method", "kwon")], ids=["budget", "method"]
)
def test_another_run_does_not_take_what_this_one_left(other, work, clock, monkeypatch):
    stopped(monkeypatch, closed_loop, "export", *RUN)
    prunes = counted(monkeypatch, Workbench, "prune_to")
    stopped(monkeypatch, closed_loop, "export", *other)
    assert len(prunes) == 1
    assert len(list((work / ".prune2deploy" / "pruned").glob("*/*"))) == 2


def test_run_on_data_that_changed_does_not_take_what_was_left(work, bert_made, clock, monkeypatch):
    original = bert_made.project.data.path  # of the process that made the project, which may be another
    data = shutil.copytree(original, work / "data")
    rewrite(work / "prune2deploy.toml", original, "data")
    stopped(monkeypatch, closed_loop, "export", *RUN)
    tiny.write_jsonl(data / "train.jsonl", tiny.text_rows(40, seed=9))
    prunes = counted(monkeypatch, Workbench, "prune_to")
    stopped(monkeypatch, closed_loop, "export", *RUN)
    assert len(prunes) == 1


def test_run_measures_anew_where_the_table_is_of_another_machine(work, clock):
    [table] = (work / "profiles").rglob("*.json")
    values = json.loads(table.read_text(encoding="utf-8"))
    values["runtime"]["version"] = "0.0.1"
    table.write_text(json.dumps(values), encoding="utf-8")
    result = cli(*RUN, "--json")
    assert answer(result)["verdict"] == "passed"
    assert clock.count(BLOCKS) == len(BLOCKS)
    assert "0.0.1" in result.stderr
    assert json.loads(table.read_text(encoding="utf-8"))["runtime"]["version"] != "0.0.1"


# the profile


def test_profile_stopped_after_its_graphs_does_not_export_them_again(unprofiled, clock, monkeypatch):
    from prune2deploy.graphs import onnx_model
    from prune2deploy.profiling import stacks
    from prune2deploy.profiling import stage as profiling

    stopped(monkeypatch, profiling, "refuse_noisy", "profile")
    assert "profiles" not in files_in(unprofiled)
    exports = [counted(monkeypatch, module, "to_onnx") for module in (onnx_model, stacks)]
    answer(cli("profile", "--json"))
    assert exports == [[], []]


# an upgrade


def test_graphs_of_before_an_upgrade_are_exported_again(unprofiled, clock, monkeypatch):
    from prune2deploy.graphs import onnx_model
    from prune2deploy.profiling import stacks
    from prune2deploy.profiling import stage as profiling

    state = unprofiled / ".prune2deploy"
    stopped(monkeypatch, profiling, "refuse_noisy", "profile")
    before = {path for folder in ("dense", "graphs") for path in (state / folder).iterdir()}
    assert len(before) == 2
    upgraded(monkeypatch, "torch")
    exports = [counted(monkeypatch, module, "to_onnx") for module in (onnx_model, stacks)]
    answer(cli("profile", "--json"))
    assert all(exports)
    assert not any(path.exists() for path in before)
    assert len(list((state / "dense").iterdir())) == 1


def test_statistics_and_models_of_before_an_upgrade_are_not_taken(work, clock, monkeypatch):
    stopped(monkeypatch, closed_loop, "export", *RUN)
    upgraded(monkeypatch, "transformers")
    passes, prunes = counted(monkeypatch, moments, "passes"), counted(monkeypatch, Workbench, "prune_to")
    stopped(monkeypatch, closed_loop, "export", *RUN)
    assert (len(passes), len(prunes)) == (1, 1)
def test_profile_disturbed_in_whole_models_does_not_time_blocks_again(unprofiled, clock, monkeypatch):
    from prune2deploy.profiling import additivity

    def disturbed(*args, **kwargs):
        raise UnstableMeasurementError("the machine is busy; run this again when nothing disturbs it")

    with monkeypatch.context() as until:
        until.setattr(additivity, "interleaved", disturbed)
        refused(cli("profile"), "the machine is busy", code=1)
    blocks = clock.count(BLOCKS)
    assert blocks > 0
    result = cli("profile", "--json")
    assert answer(result)
    assert clock.count(BLOCKS) == blocks
    assert "timed already" in result.stderr
    assert not list((unprofiled / ".prune2deploy" / "graphs").iterdir()), "nor is anything kept beyond the table"


def test_profile_that_contradicts_itself_times_everything_again(unprofiled, clock):
    clock.factor = lambda description, name: 50.0 if name == "16" else 1.0
    refused(cli("profile"), "the table contradicts itself", code=1)
    blocks, clock.factor = clock.count(BLOCKS), lambda description, name: 1.0
    answer(cli("profile", "--json"))
    assert clock.count(BLOCKS) == 2 * blocks


# the statistics


def test_statistics_are_taken_once(work, statistics, clock, monkeypatch):
    shutil.rmtree(statistics)
    passes = counted(monkeypatch, moments, "passes")
    stopped(monkeypatch, pruning, "fit_to_engine", "prune", "--speedup", 1.5)
    assert len(passes) == 1
    assert statistics.is_dir()
    assert not (work / "pruned").exists()
    answer(cli("prune", "--speedup", 1.5, "--json"))
    answer(cli(*HALF, "--json"))
    assert len(passes) == 1, "nor for another budget"


def test_statistics_stopped_half_way_are_taken_again(work, statistics, monkeypatch):
    expected = files_in(statistics)
    shutil.rmtree(statistics)

    def half_way(*args):
        yield next(real(*args))
        raise KeyboardInterrupt

    real = moments.passes
    with monkeypatch.context() as until:
        until.setattr(moments, "passes", half_way)
        refused(cli(*HALF), "stopped", code=130)
    assert list(statistics.parent.iterdir()) == []
    answer(cli(*HALF, "--json"))
    assert files_in(statistics) == expected


def test_damaged_statistics_are_taken_again(work, statistics, monkeypatch):
    wanted = answer(cli(*HALF, "--json"))["plan"]
    shutil.rmtree(work / "half")
    passes = counted(monkeypatch, moments, "passes")
    damaged = statistics / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    assert answer(cli(*HALF, "--json"))["plan"] == wanted
    assert len(passes) == 1


def test_other_calibration_samples_need_other_statistics(work, statistics, monkeypatch):
    passes = counted(monkeypatch, moments, "passes")
    rewrite(work / "prune2deploy.toml", "seed = 0", "seed = 1")
    answer(cli(*HALF, "--json"))
    assert len(passes) == 1
    assert len(list((work / ".prune2deploy" / "prune").rglob("moments"))) == 2


# a real kill

KILLED = """
import os, signal
from prune2deploy.pruning import workbench as stage

def dies(*args, real=stage.save_pruned):
    real(*args)
    os.kill(os.getpid(), signal.SIGKILL)

stage.save_pruned = dies
from prune2deploy.cli import main
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_while_it_writes_the_model(work):
    shutil.rmtree(work / ".prune2deploy")
    before = files_in(work)
    command = [str(argument) for argument in HALF]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {name: content for name, content in files_in(work).items() if not name.endswith(".partial")}
    assert left == before, "nothing that one could take for a model"
    partial = work / ".half.partial"
    assert (partial / PLAN_FILE).is_file(), "it was all there but its name"

    record = answer(cli(*HALF, "--json"))
    assert not partial.exists()
    assert json.loads((work / "half" / PLAN_FILE).read_text(encoding="utf-8"))["plan"] == record["plan"]


# a machine that is busy


@pytest.mark.parametrize("wait", [[], ["--wait", 5]], ids=["said nothing", "said to wait"])
def test_run_that_is_told_to_wait_takes_what_one_that_was_not_left(wait, work, clock, monkeypatch):
    stopped(monkeypatch, closed_loop, "export", *RUN)
    prunes = counted(monkeypatch, Workbench, "prune_to")
    answer(cli(*RUN, *wait, "--json"))
    assert prunes == []
