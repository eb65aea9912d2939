"""What the machine can do to a user: no room, no memory, no GPU, no package, Ctrl-C. Nothing half-written is left."""

import errno
import json
import shutil
import sys
from pathlib import Path

import exports
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import safetensors.torch
from safetensors import SafetensorError
from steady import answer, cli, files_in, refused

from prune2deploy.pruning.statistics import moments

pytest_plugins = ("made",)

FAST = ("prune", "--speedup", 1.5)
PRUNE = ("prune", "--flops", 0.5, "--out", "half")
FULL = {
    "python": OSError(errno.ENOSPC, "No space left on device"),
    "safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
}


def contents(root):
    """Folders aside: an empty repository is no package."""
    return {name: content for name, content in files_in(root).items() if content is not None}


def filling(error):
    """A writer of safetensors that gives up in the middle."""

    def save_file(arrays, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise error

    return save_file


def filled_text(self, text, encoding=None):
    self.write_bytes(text[: len(text) // 2].encode())
    raise FULL["python"]


@pytest.mark.parametrize("kind", FULL)
def test_disk_that_fills_up_under_the_weights(kind, work, monkeypatch):
    before = contents(work)
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", filling(FULL[kind]))
        refused(cli(*PRUNE), "disk", "make room and run this again")
    assert contents(work) == before
    answer(cli(*PRUNE, "--json"))


@pytest.mark.parametrize("kind", FULL)
def test_disk_that_fills_up_under_the_statistics(kind, work, monkeypatch):
    [statistics] = (work / ".prune2deploy" / "prune").rglob("moments")
    shutil.rmtree(statistics)
    before = contents(work)
    monkeypatch.setattr(safetensors.numpy, "save_file", filling(FULL[kind]))
    refused(cli(*PRUNE), "disk", "make room and run this again")
    assert contents(work) == before
    assert not any(statistics.glob("*")), "but the empty folder"


def test_disk_that_fills_up_under_an_export(work_pruned, clock, monkeypatch):
    before = contents(work_pruned)
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", filling(FULL["python"]))
        refused(cli("export"), "the disk is full", "make room and run this again")
    assert contents(work_pruned) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", filled_text)
        refused(cli("export"), "the disk is full")
    assert contents(work_pruned) == before
    assert not list(work_pruned.rglob("*.partial"))
    answer(cli("export", "--json"))


def test_disk_that_fills_up_under_a_graph(work, clock, monkeypatch):
    def save(graph, path, **settings):
        Path(path).write_bytes(b"half")
        raise FULL["python"]

    [dense] = (work / ".prune2deploy" / "dense").iterdir()
    dense.unlink()
    before = contents(work)
    monkeypatch.setenv(exports.FOLDER, str(work.parent))  # where none is kept
    monkeypatch.setattr(onnx, "save_model", save)
    refused(cli(*FAST), "the disk is full")
    assert contents(work) == before
    assert not dense.exists()


def test_disk_that_fills_up_under_a_table(work, clock, monkeypatch):
    [table] = (work / "profiles").rglob("*.json")
    table.unlink()
    before = contents(work)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", filled_text)
        refused(cli("profile"), "the disk is full")
    assert contents(work) == before
    assert answer(cli("profile", "--json"))["path"].endswith(table.name)


def test_disk_that_fills_up_under_the_project_file(bert_dir, text_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "write_text", filled_text)
    refused(cli("init", bert_dir, "--data", text_data, "--seq-len", 8), "the disk is full")
    assert files_in(tmp_path) == {}


def test_memory_that_runs_out(work, monkeypatch):
    def too_much(*args):
        raise MemoryError

    [statistics] = (work / ".prune2deploy" / "prune").rglob("moments")
    shutil.rmtree(statistics)
    before = contents(work)
    monkeypatch.setattr(moments, "passes", too_much)
    refused(cli(*PRUNE), "out of memory", "calibration.samples")
    assert contents(work) == before


def test_dense_model_that_is_faster_than_the_empty_one(work, clock):
    before = contents(work)
    clock.factor = lambda description, name: 0.001 if "whole models" in description and name.startswith("0-") else 1.0
    refused(cli("profile"), "whole models do not take what their blocks add up to", code=1)
    assert contents(work) == before


def test_fault_of_ours_is_not_dressed_up(work, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("prune2deploy.pruning.workbench.load_dense", broken)
    result = cli(*PRUNE)
    assert isinstance(result.exception, ZeroDivisionError)
    assert "error: " not in result.stderr


# Ctrl-C

STAGES = {
    "init": ("initialise.init", ["model", "--data", "data"]),
    "profile": ("profiling.stage.profile", []),
    "prune": ("pruning.stage.prune", ["--speedup", 2]),
    "export": ("exporting.stage.export", []),
    "run": ("closed_loop.run", ["--speedup", 2]),
    "validate": ("exporting.recheck.validate", ["package"]),
    "doctor": ("doctor.examine", []),
}


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", STAGES)
def test_every_command_stops_in_one_line(name, work, monkeypatch):
    function, arguments = STAGES[name]
    monkeypatch.setattr(f"prune2deploy.{function}", interrupt)
    before = files_in(work)
    message = refused(cli(name, *arguments), "stopped; the same command goes on", code=130)
    assert files_in(work) == before

    result = cli(name, *arguments, "--json")
    assert answer(result, code=130) == {"error": message.removeprefix("error: "), "exit_code": 130}


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (FAST, "prune2deploy.pruning.workbench.save_pruned"),
        (("export", "--pruned", "pruned"), "prune2deploy.exporting.stage.assess"),
        (("export", "--pruned", "pruned"), "prune2deploy.exporting.stage.own_files"),
        (("profile",), "prune2deploy.profiling.stage.refuse_noisy"),
    ],
    ids=["prune", "export early", "export late", "profile"],
)
def test_stopped_in_the_middle_nothing_is_seen(command, function, work_pruned, clock, monkeypatch):
    if command == FAST:
        command = (*FAST, "--out", "new")
    before = contents(work_pruned)
    with monkeypatch.context() as patch:
        patch.setattr(function, interrupt)
        refused(cli(*command), "stopped", code=130)
    assert contents(work_pruned) == before
    answer(cli(*command, "--json"))


# what is not installed


def test_tritonclient_that_is_not_installed(work_pruned, bert_made, clock, monkeypatch):
    advice = "tritonclient is not installed, and this step needs it: pip install 'prune2deploy[triton]'"
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    before = contents(work_pruned)
    refused(cli("export"), advice)
    refused(cli("validate", bert_made.package), advice)
    assert contents(work_pruned) == before


def test_onnxruntime_that_is_not_installed(work, bert_made, monkeypatch):
    advice = "onnxruntime is not installed, and this step needs it: pip install 'prune2deploy[cpu]'"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    before = contents(work)
    for command in (["profile"], FAST, ["run", "--speedup", 1.5], ["validate", bert_made.package]):
        refused(cli(*command), advice)
    assert contents(work) == before


def test_gpu_that_is_not_there(work_pruned, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    before = files_in(work_pruned)
    for command in (["profile"], [*FAST, "--out", "new"], ["export"], ["run", "--speedup", 1.5]):
        refused(cli(*command, "--gpu"), "no CUDA here", "use --cpu")
    assert files_in(work_pruned) == before


def test_doctor_says_what_is_missing(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("prune2deploy.doctor.version", version)
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = {each["name"]: each for each in answer(cli("doctor", "--json"))["capabilities"]}
    assert found["ONNX Runtime on the CPU"]["available"] is True
    assert found["ONNX Runtime on CUDA"]["available"] is False
    assert "prune2deploy[gpu]" in found["ONNX Runtime on CUDA"]["detail"]
    for package, extra in (("tritonclient", "triton"), ("TensorRT", "tensorrt")):
        assert found[package]["available"] is False
        assert f"pip install 'prune2deploy[{extra}]'" in found[package]["detail"]
    assert "no   tritonclient" in cli("doctor").stdout


def test_errors_are_json_too(work):
    said = answer(cli("prune", "--speedup", 1, "--json"), code=2)
    assert said["exit_code"] == 2
    assert "a speedup is larger than 1" in said["error"]
    assert json.dumps(said)
