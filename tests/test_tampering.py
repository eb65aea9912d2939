import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest
from packages import flip
from safetensors.numpy import load_file, save_file
from steady import answer, cli, refused

from prune2deploy.repository.manifest import read_manifest, write_sealed

pytest_plugins = ("made",)


@pytest.fixture
def package(bert_made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(bert_made.package, tmp_path / bert_made.package.name)


@pytest.mark.parametrize(
    "name",
    ["1/model.onnx", "config.pbtxt", "labels.txt", "1/processor/tokenizer.json", "1/reference.safetensors",
     "1/report.html", "1/report.json", "warmup/workload.input_ids"],
)  # fmt: skip
def test_one_changed_byte_is_found(name, package, clock):
    flip(package / name)
    result = cli("validate", package)
    assert result.exit_code == 1, result.stderr
    assert f"{name} was changed" in result.stdout.splitlines()[0]


@pytest.mark.parametrize(
    "name", ["1/model.onnx", "config.pbtxt", "labels.txt", "1/processor/tokenizer.json", "1/report.html"]
)
def test_missing_file_is_found(name, package, clock):
    (package / name).unlink()
    result = cli("validate", package)
    assert result.exit_code == 1, result.stderr
    assert f"{name} is missing" in result.stdout.splitlines()[0]


def test_added_file_is_found(package, clock):
    (package / "1" / "extra.bin").write_bytes(b"")
    found = answer(cli("validate", package, "--json"), code=1)
    assert found["passed"] is False
    assert [(check["name"], check["detail"]) for check in found["checks"] if not check["passed"]] == [
        ("files", "1/extra.bin was added")
    ]  # fmt: skip


def test_other_weights_are_found_even_with_the_right_hashes(package, clock):
    file = package / "1" / "model.onnx"
    model = onnx.load(file)
    bias = next(entry for entry in model.graph.initializer if entry.name.endswith("classifier.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.ones(3, dtype=np.float32), bias.name))
    onnx.save(model, file)
    manifest = read_manifest(package / "1")
    manifest.files["model.onnx"] = hashlib.sha256(file.read_bytes()).hexdigest()
    write_sealed(manifest, package / "1")
    found = answer(cli("validate", package, "--json"), code=1)
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["reference outputs"]


def test_manifest_that_says_something_else_is_found(package, clock):
    file = package / "1" / "manifest.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**values, "measured_ms": values["measured_ms"] / 2}), encoding="utf-8")
    result = cli("validate", package)
    assert result.exit_code == 1
    assert "the manifest of version 1 was changed" in result.stdout.splitlines()[0]


def test_manifest_that_is_damaged(package):
    (package / "1" / "manifest.json").write_text("{", encoding="utf-8")
    refused(cli("validate", package), "manifest.json: not a valid manifest")


def lose(package):
    (package / "1" / "reference.safetensors").unlink()


def tear(package):
    file = package / "1" / "reference.safetensors"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])


def change_inputs(change):
    def changed(package):
        arrays = load_file(package / "1" / "reference.safetensors")
        change(arrays)
        save_file(arrays, package / "1" / "reference.safetensors")

    return changed


REFERENCES = {
    "missing": lose,
    "torn": tear,
    "an input less": change_inputs(lambda arrays: arrays.pop("input.attention_mask")),
    "ids out of range": change_inputs(lambda arrays: arrays["input.input_ids"].__iadd__(10**6)),
    "an output by another name": change_inputs(lambda arrays: arrays.update(renamed=arrays.pop("output.logits"))),
    "an output that the model has not": change_inputs(
        lambda arrays: arrays.update({"output.other": arrays["output.logits"].copy()})
    ),
    "no workload": change_inputs(lambda arrays: [arrays.pop(name) for name in list(arrays) if "workload" in name]),
    "ids of the workload out of range": change_inputs(lambda arrays: arrays["workload.0.input_ids"].__iadd__(10**6)),
}


def test_package_of_before_outputs_had_names_is_valid(package, clock):
    change_inputs(lambda arrays: arrays.update(
        {name.removesuffix(".logits"): arrays.pop(name) for name in list(arrays) if name.endswith(".logits")}
    ))(package)  # fmt: skip
    file = package / "1" / "reference.safetensors"
    assert {"output", "workload_output.0"} < load_file(file).keys()
    manifest = read_manifest(package / "1")
    manifest.files[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    write_sealed(manifest, package / "1")
    assert answer(cli("validate", package, "--json"))["passed"] is True


@pytest.mark.parametrize("which", REFERENCES)
def test_references_that_cannot_be_used_fail_by_name(which, package, clock):
    REFERENCES[which](package)
    result = cli("validate", package)
    assert result.exit_code == 1
    assert "reference.safetensors" in result.stdout.splitlines()[0]


def test_version_that_is_linked_in_is_found(package, clock, tmp_path):
    shutil.copytree(package / "1", tmp_path / "other")
    (package / "2").symlink_to(tmp_path / "other", target_is_directory=True)  # a server would load it instead of 1
    result = cli("validate", package)
    assert result.exit_code == 1
    assert "version 2 is a link" in result.stdout
