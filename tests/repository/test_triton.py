import dataclasses
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from packages import ort

from prune2deploy.config import ServingSettings
from prune2deploy.errors import CheckFailedError, InputError, MissingPackageError
from prune2deploy.repository.triton import (
    TensorSpec,
    ensemble_config,
    model_config,
    parse_config,
    step_config,
    tensor_specs,
    write_config,
    write_warmup,
)
from prune2deploy.repository.triton_check import check_entry

pytest.importorskip("tritonclient.grpc")
from tritonclient.grpc import model_config_pb2 as schema

IDS = TensorSpec("input_ids", "int64", (-1,))
MASK = TensorSpec("attention_mask", "int64", (-1,))
PIXELS = TensorSpec("pixel_values", "float32", (3, 8, 8))
TEXT = TensorSpec("TEXT", "string", (1,))
LOGITS = TensorSpec("logits", "float32", (3,))
TYPES = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT,
         "float16": TensorProto.FLOAT16}  # fmt: skip


def save_graph(path, inputs, outputs, batch="batch"):
    """A graph whose inputs and outputs are what matters; it computes nothing of use."""

    def value(spec):
        dims = ["free" if size == -1 else size for size in spec.dims]
        return helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], [batch, *dims])

    node = helper.make_node("Identity", [inputs[0].name], [outputs[0].name])
    graph = helper.make_graph([node], "graph", [value(spec) for spec in inputs], [value(spec) for spec in outputs])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph), path)
    return path


def text_batch(batch=2, length=5):
    ids = np.arange(batch * length, dtype=np.int64).reshape(batch, length) + 1000
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def make_entry(entry, inputs, samples, labels=("no", "yes", "maybe")):
    save_graph(entry / "1" / "model.onnx", inputs, [LOGITS])
    if labels:
        (entry / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    config = model_config(
        entry.name, inputs, [LOGITS], max_batch_size=8, parameters=ort(2), labels_file="labels.txt" if labels else None,
        warmups=[write_warmup(entry, "workload", samples)],
    )  # fmt: skip
    write_config(entry, config)
    return entry


@pytest.fixture
def entry(tmp_path):
    return make_entry(tmp_path / "sst2", [IDS, MASK], text_batch())


def rewrite(entry, change):
    """Apply `change` to the configuration of `entry`."""
    from google.protobuf import text_format

    config = parse_config(entry / "config.pbtxt")
    change(config)
    (entry / "config.pbtxt").write_text(text_format.MessageToString(config))


def test_config_says_what_was_asked(tmp_path):
    warmup = write_warmup(tmp_path, "two", text_batch())
    write_config(tmp_path, model_config(
        "sst2", [IDS, MASK], [LOGITS], max_batch_size=8, parameters=ort(3), labels_file="l.txt", warmups=[warmup]
    ))  # fmt: skip
    config = parse_config(tmp_path / "config.pbtxt")
    assert (config.name, config.platform, config.backend) == ("sst2", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 8
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("input_ids", schema.TYPE_INT64, [-1]), ("attention_mask", schema.TYPE_INT64, [-1])
    ]  # fmt: skip
    (output,) = config.output
    assert (output.name, output.data_type, list(output.dims)) == ("logits", schema.TYPE_FP32, [3])
    assert output.label_filename == "l.txt"
    assert config.version_policy.latest.num_versions == 1
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert not config.dynamic_batching.preferred_batch_size
    (group,) = config.instance_group
    assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_CPU, 1)
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "intra_op_thread_count": "3", "inter_op_thread_count": "1"
    }  # fmt: skip
    (sample,) = config.model_warmup
    assert (sample.name, sample.batch_size, set(sample.inputs)) == ("two", 2, {"input_ids", "attention_mask"})
    ids = sample.inputs["input_ids"]
    assert (ids.data_type, list(ids.dims), ids.input_data_file) == (schema.TYPE_INT64, [5], "two.input_ids")


def test_tensorrt_entry_replays_graphs_of_the_workload(tmp_path):
    entry = tmp_path / "trt"
    save_graph(entry / "1" / "onnx" / "model.onnx", [IDS, MASK], [LOGITS])
    warmups = [write_warmup(entry, "two", text_batch()), write_warmup(entry, "four", text_batch(4, 7))]
    write_config(entry, model_config(
        "trt", [IDS, MASK], [LOGITS], max_batch_size=8, parameters={}, warmups=warmups, device="gpu", backend="tensorrt",
        profiles=3,
    ))  # fmt: skip
    assert check_entry(entry, "1") == ["1/model.plan: no such file, but config.pbtxt is for it"]
    (entry / "1" / "model.plan").write_bytes(b"a plan")
    assert check_entry(entry, "1") == []
    config = parse_config(entry / "config.pbtxt")
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (schema.ModelInstanceGroup.KIND_GPU, 1, ["0", "1", "2"])
    assert not config.parameters
    assert config.optimization.cuda.graphs
    shapes = [(spec.batch_size, {name: list(dims.dim) for name, dims in spec.input.items()})
              for spec in config.optimization.cuda.graph_spec]  # fmt: skip
    assert shapes == [
        (2, {"input_ids": [5], "attention_mask": [5]}), (4, {"input_ids": [7], "attention_mask": [7]})
    ]  # fmt: skip


def test_gpu_instance_and_no_labels(tmp_path):
    write_config(tmp_path, model_config("vit", [PIXELS], [LOGITS], max_batch_size=4, parameters=ort(1), device="gpu"))
    config = parse_config(tmp_path / "config.pbtxt")
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert config.output[0].label_filename == ""
    assert not config.model_warmup


def test_text_starts_with_a_comment_and_is_reproducible(tmp_path):
    texts = set()
    for _ in range(3):
        write_config(tmp_path, model_config("m", [IDS, MASK], [LOGITS], max_batch_size=1, parameters=ort(1)))
        texts.add((tmp_path / "config.pbtxt").read_text())
    assert len(texts) == 1
    assert texts.pop().startswith("# ")


def test_what_the_project_says_of_serving_is_in_the_configuration():
    serving = ServingSettings(backend="python", response_cache=True, instances=3, queue_delay_us=7)
    config = model_config("m", [IDS], [LOGITS], max_batch_size=2, parameters=ort(5), backend="python", serving=serving)
    assert (config.platform, config.backend) == ("", "python")
    assert config.response_cache.enable
    assert config.instance_group[0].count == 3
    assert config.dynamic_batching.max_queue_delay_microseconds == 7
    assert config.parameters["intra_op_thread_count"].string_value == "5"
    assert not model_config("m", [IDS], [LOGITS], max_batch_size=2, parameters=ort(5)).HasField("response_cache")


def test_a_step_is_given_what_waits_for_it_together():
    config = step_config("m_preprocess", [TEXT], [IDS], 8, 2)
    assert (config.backend, config.max_batch_size, config.instance_group[0].count) == ("python", 8, 2)
    assert (config.input[0].data_type, list(config.input[0].dims)) == (schema.TYPE_STRING, [1])
    assert config.HasField("dynamic_batching")


def test_an_ensemble_names_its_steps_in_order():
    steps = {"first": ({"TEXT": "TEXT"}, {"ids": "x"}), "second": ({"in": "x"}, {"logits": "LOGITS"})}
    config = ensemble_config("m_text", [TEXT], [dataclasses.replace(LOGITS, name="LOGITS")], 8, steps)
    assert config.platform == "ensemble"
    assert [(step.model_name, step.model_version, dict(step.input_map), dict(step.output_map))
            for step in config.ensemble_scheduling.step] == [
        ("first", -1, {"TEXT": "TEXT"}, {"ids": "x"}), ("second", -1, {"in": "x"}, {"logits": "LOGITS"})
    ]  # fmt: skip


@pytest.mark.parametrize(
    "inputs", [[IDS, MASK], [dataclasses.replace(IDS, dtype="int32")], [PIXELS]], ids=["int64", "int32", "pixels"]
)
def test_specs_are_those_of_the_graph(tmp_path, inputs):
    assert tensor_specs(save_graph(tmp_path / "m.onnx", inputs, [LOGITS])) == (inputs, [LOGITS])


def test_weights_listed_as_inputs_are_none(tmp_path):
    path = save_graph(tmp_path / "m.onnx", [IDS, TensorSpec("weight", "float32", (2,))], [LOGITS])
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 2), np.float32), "weight"))
    onnx.save(model, path)
    assert tensor_specs(path)[0] == [IDS]


def test_fixed_batch_is_refused(tmp_path):
    with pytest.raises(CheckFailedError, match=r"'input_ids' has shape \[1, -1\]"):
        tensor_specs(save_graph(tmp_path / "m.onnx", [IDS], [LOGITS], batch=1))


def test_tensor_of_the_batch_alone_is_refused(tmp_path):
    with pytest.raises(CheckFailedError, match="two or more axes"):
        tensor_specs(save_graph(tmp_path / "m.onnx", [IDS], [TensorSpec("score", "float32", ())]))


def test_foreign_types_are_refused(tmp_path):
    half = dataclasses.replace(PIXELS, dtype="float16")
    with pytest.raises(CheckFailedError, match="'pixel_values' is float16"):
        tensor_specs(save_graph(tmp_path / "m.onnx", [half], [LOGITS]))
    with pytest.raises(CheckFailedError, match="'pixel_values' is float64"):
        write_warmup(tmp_path, "w", {"pixel_values": np.zeros((1, 3, 8, 8))})


@pytest.mark.parametrize("content", [None, b"", b"not a model \xff\xfe"])
def test_missing_or_damaged_graph_is_one_line(tmp_path, content):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        tensor_specs(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_warmup_file_is_the_first_sample_in_row_major_order(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    warmup = write_warmup(tmp_path, "four", {"pixel_values": pixels})
    assert (warmup.batch_size, warmup.files) == (4, {"four.pixel_values": PIXELS})
    content = (tmp_path / "warmup" / "four.pixel_values").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(3, 8, 8), pixels[0])


def test_warmup_bytes_are_little_endian(tmp_path):
    write_warmup(tmp_path, "w", {"input_ids": np.array([[1, 258]], dtype=">i8")})
    assert (tmp_path / "warmup" / "w.input_ids").read_bytes() == b"\1" + 7 * b"\0" + b"\2\1" + 6 * b"\0"


def test_warmup_of_uneven_batches_is_refused(tmp_path):
    with pytest.raises(CheckFailedError, match="different batch sizes"):
        write_warmup(tmp_path, "w", {"a": np.zeros((1, 2), np.int64), "b": np.zeros((2, 2), np.int64)})


def test_good_entries_have_no_problems(tmp_path, entry):
    assert check_entry(entry, "1") == []
    pixels = {"pixel_values": np.zeros((1, 3, 8, 8), np.float32)}
    assert check_entry(make_entry(tmp_path / "vit", [PIXELS], pixels, labels=()), "1") == []


def test_staged_entry_is_checked_under_its_later_name(entry):
    staged = entry.rename(entry.with_name(".sst2.partial"))
    assert check_entry(staged, "1", "sst2") == []
    assert len(check_entry(staged, "1")) == 1


def test_label_file_without_last_newline_is_as_good(entry):
    (entry / "labels.txt").write_text("no\nyes\nmaybe")
    assert check_entry(entry, "1") == []


DAMAGE = {
    "name": (lambda c: setattr(c, "name", "other"), "called 'other', its directory 'sst2'"),
    "backend": (lambda c: setattr(c, "backend", "tensorrt"), "on backend 'tensorrt' is nothing that we export"),
    "no batching": (lambda c: setattr(c, "max_batch_size", 0), "max_batch_size is 0"),
    "input missing": (lambda c: c.input.pop(), "input 'attention_mask' of the model is missing"),
    "input renamed": (lambda c: setattr(c.input[0], "name", "ids"), "input 'ids' is not in the model"),
    "input type": (
        lambda c: setattr(c.input[0], "data_type", schema.TYPE_INT32),
        "input 'input_ids' is int32 [-1], in the model it is int64 [-1]",
    ),
    "input of no known type": (lambda c: setattr(c.input[0], "data_type", 99), "input 'input_ids' is 99 [-1]"),
    "input dims": (lambda c: c.input[1].dims.append(4), "input 'attention_mask' is int64 [-1, 4]"),
    "output type": (lambda c: setattr(c.output[0], "data_type", schema.TYPE_FP16), "output 'logits' is TYPE_FP16 [3]"),
    "output missing": (lambda c: c.output.pop(), "output 'logits' of the model is missing"),
    "output dims": (lambda c: c.output[0].dims.__setitem__(0, 4), "output 'logits' is float32 [4]"),
    "warm-up batch": (lambda c: setattr(c.model_warmup[0], "batch_size", 9), "batch_size 9 is not in 1..8"),
    "empty warm-up": (lambda c: setattr(c.model_warmup[0], "batch_size", 0), "batch_size 0 is not in 1..8"),
    "warm-up input": (
        lambda c: c.model_warmup[0].inputs.pop("input_ids"),
        "has ['attention_mask'], the model takes ['attention_mask', 'input_ids']",
    ),
    "warm-up type": (
        lambda c: setattr(c.model_warmup[0].inputs["input_ids"], "data_type", schema.TYPE_FP32),
        "'input_ids' is float32 [5], the model takes int64 [-1]",
    ),
    "warm-up dims": (
        lambda c: c.model_warmup[0].inputs["input_ids"].dims.insert(0, 1), "'input_ids' is int64 [1, 5]"
    ),
    "warm-up free axis": (
        lambda c: c.model_warmup[0].inputs["input_ids"].dims.__setitem__(0, -1), "'input_ids' is int64 [-1]"
    ),
    "warm-up longer than its file": (
        lambda c: c.model_warmup[0].inputs["input_ids"].dims.__setitem__(0, 6), "40 bytes, but int64 [6] takes 48"
    ),
    "warm-up of random data": (
        lambda c: setattr(c.model_warmup[0].inputs["input_ids"], "random_data", True), "names no data file"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_configuration_is_found(entry, damage):
    change, wanted = DAMAGE[damage]
    rewrite(entry, change)
    problems = check_entry(entry, "1")
    assert any(wanted in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-8])


FILE_DAMAGE = {
    "no graph": ("1/model.onnx", lambda p: p.unlink(), "model.onnx: no such ONNX model"),
    "no ONNX": ("1/model.onnx", lambda p: p.write_bytes(b"\xff\xff"), "not a readable ONNX model"),
    "fixed batch": ("1/model.onnx", lambda p: save_graph(p, [IDS, MASK], [LOGITS], batch=1), "can only batch"),
    "no labels": ("labels.txt", lambda p: p.unlink(), "labels.txt: no such file"),
    "empty labels": ("labels.txt", lambda p: p.write_text(""), "0 labels, but output 'logits' has 3 classes"),
    "few labels": ("labels.txt", lambda p: p.write_text("no\nyes\n"), "2 labels, but output 'logits' has 3 classes"),
    "no warm-up": ("warmup/workload.input_ids", lambda p: p.unlink(), "no file 'workload.input_ids' in warmup/"),
    "short warm-up": ("warmup/workload.input_ids", truncate, "32 bytes, but int64 [5] takes 40"),
    "whole batch": ("warmup/workload.input_ids", lambda p: p.write_bytes(bytes(80)), "80 bytes, but int64 [5]"),
    "no configuration": ("config.pbtxt", lambda p: p.unlink(), "config.pbtxt: no such Triton configuration"),
    "unknown field": ("config.pbtxt", lambda p: p.write_text("speed: 3\n"), "not a valid Triton configuration"),
    "half a file": ("config.pbtxt", lambda p: p.write_text(p.read_text()[:-3]), "not a valid Triton configuration"),
    "binary": ("config.pbtxt", lambda p: p.write_bytes(b"\xff\xfe\0"), "cannot be read"),
}


@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_damaged_file_is_the_one_problem(entry, damage):
    file, change, wanted = FILE_DAMAGE[damage]
    change(entry / file)
    (problem,) = check_entry(entry, "1")
    assert wanted in problem
    assert "\n" not in problem


def test_directory_in_place_of_the_configuration_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        parse_config(tmp_path)


def test_without_tritonclient_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(MissingPackageError, match=r"prune2deploy\[triton\]"):
        parse_config(tmp_path / "config.pbtxt")
