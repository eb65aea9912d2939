import sys

import numpy as np
import onnx
import pytest
import tiny
from steady import answer, cli, install, refused

from prune2deploy.config import Target
from prune2deploy.errors import InputError, MissingPackageError
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.repository.triton import parameters_of
from prune2deploy.runtimes import openvino
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.predict import torch_run

TARGET = Target(runtime="openvino", threads=1)
BF16 = openvino.has_bf16()


@pytest.fixture
def doubling(tmp_path):
    """A graph that doubles its input, and negates it."""
    names = ("x", "twice", "minus")
    value, *results = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2]) for name in names)
    nodes = [onnx.helper.make_node("Neg", ["x"], ["minus"]), onnx.helper.make_node("Add", ["x", "x"], ["twice"])]
    graph = onnx.helper.make_graph(nodes, "both", [value], results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("name", ["model.xml", "again.onnx"])
def test_an_engine_runs_the_graph_and_what_is_compiled_of_it(doubling, name):
    runtime, x = runtime_for(TARGET), np.array([[1.0, 2.0], [3.0, -4.0]], dtype=np.float32)
    artifact = doubling.parent / "made" / name
    artifact.parent.mkdir()
    runtime.compile(doubling, artifact)
    beside = {"model.xml": {"model.bin"}, "again.onnx": set()}[name]
    assert {path.name for path in artifact.parent.iterdir()} == {name, *beside}
    for engine in (runtime.build(doubling), runtime.load(artifact)):
        np.testing.assert_equal(engine.run({"x": x}), {"twice": 2 * x, "minus": -x})
        np.testing.assert_equal(engine.run({"x": x[:1]}), {"twice": 2 * x[:1], "minus": -x[:1]})
        assert engine.timed({"x": x})() > 0


def test_outputs_are_the_callers_own(doubling):
    engine = runtime_for(TARGET).build(doubling)
    first = engine.run({"x": np.ones((1, 2), dtype=np.float32)})
    engine.run({"x": np.zeros((1, 2), dtype=np.float32)})
    assert first["twice"].tolist() == [[2, 2]]


def test_settings_say_threads_and_precision(doubling):
    for threads in (1, 2):
        runtime = runtime_for(Target(runtime="openvino", threads=threads))
        said = runtime.describe()
        assert (said.name, said.provider, said.threads) == ("openvino", "CPU", threads)
        assert said.settings["INFERENCE_PRECISION_HINT"] == "f32"
        compiled = runtime.build(doubling).request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_bf16_is_a_precision_where_the_processor_has_it(doubling, monkeypatch):
    monkeypatch.setattr(openvino, "has_bf16", lambda: False)
    with pytest.raises(InputError, match="choose precision"):
        runtime_for(Target(runtime="openvino", precision="bf16"))
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)
    said = runtime_for(Target(runtime="openvino", precision="bf16")).describe()
    assert said.settings["INFERENCE_PRECISION_HINT"] == "bf16"


def test_a_backend_that_would_take_bf16_by_itself_is_told_of(monkeypatch):
    for has, precision, backend, told in (
        (True, "fp32", "openvino", True), (True, "fp32", "python", False), (True, "bf16", "openvino", False),
        (False, "fp32", "openvino", False),
    ):  # fmt: skip
        monkeypatch.setattr(openvino, "has_bf16", lambda has=has: has)
        runtime = openvino.OpenVino(Target(runtime="openvino", precision=precision))
        assert bool(runtime.otherwise(backend)) == told


def test_a_backend_gets_the_settings_of_the_measurement(monkeypatch):
    monkeypatch.setattr(openvino, "has_bf16", lambda: True)
    plain, half = (
        openvino.OpenVino(Target(runtime="openvino", precision=precision, threads=3)).describe()
        for precision in ("fp32", "bf16")
    )
    assert parameters_of(plain, "python") == plain.settings
    told = parameters_of(half, "openvino")
    assert (told["INFERENCE_NUM_THREADS"], told["NUM_STREAMS"], told["HINT_BF16"]) == ("3", "1", "YES")
    assert "INFERENCE_PRECISION_HINT" not in told  # which the backend does not know
    assert "HINT_BF16" not in parameters_of(plain, "openvino")


@pytest.mark.parametrize("content", [b"", b"<net/>", b"no graph"])
def test_what_is_no_model_is_refused_in_a_line(tmp_path, content):
    for name in ("model.xml", "model.onnx"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="OpenVINO does not") as caught:
            runtime_for(TARGET).load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"prune2deploy\[openvino\]"):
        openvino.import_openvino()


@pytest.mark.parametrize(
    ("values", "said"),
    [({"device": "gpu"}, 'runtime = "openvino" needs device = "cpu"'),
     ({"precision": "fp16"}, '"fp16" is not to be had in openvino on a cpu: choose auto, fp32, bf16 or int8')],
)  # fmt: skip
def test_targets_that_openvino_cannot_be(values, said):
    with pytest.raises(ValueError, match=said):
        Target(runtime="openvino", **values)


@pytest.mark.slow
def test_the_whole_way(bert_dir, text_data, tmp_path, monkeypatch):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    start = ["--batch", 2, "--seq-len", 8, "--threads", 1, "--samples", 16, "--runtime", "openvino"]
    answer(cli("init", bert_dir, "--data", text_data, *start, "--json"))
    table = answer(cli("profile", "--json"))
    assert ".openvino-1t.fp32.json" in table["path"]
    answer(cli("prune", "--speedup", 1.2, "--json"))
    said = answer(cli("export", "--serve", "python", "--with-tokenizer", "--name", "bert", "--json"))
    assert (said["verdict"], said["runtime"]["name"]) == ("passed", "openvino")
    assert answer(cli("validate", "model_repository/bert", "--json"))["passed"]
    requirements = (tmp_path / "model_repository/bert/1/requirements.txt").read_text(encoding="utf-8")
    assert requirements.splitlines()[1].startswith("openvino==")
    served = cli("export", "--name", "native")
    if BF16:
        refused(served, "Triton's OpenVINO backend computes in bf16", code=1)
        assert not (tmp_path / "model_repository/native").exists()
    else:
        assert served.exit_code == 0
        assert {"model.xml", "model.bin"} <= {path.name for path in (tmp_path / "model_repository/native/1").iterdir()}


def test_a_pruned_models_graph_gives_what_pytorch_gives(bert_dir, text_data, tmp_path):
    model, task = tiny.loaded_task(tiny.make_project(bert_dir, text_data, "text-classification", tmp_path))
    export_onnx(model, task, tmp_path / "model.onnx")
    engine, samples = runtime_for(TARGET).build(tmp_path / "model.onnx"), task.evaluation()
    for indices in ([0], [1, 2, 3], list(range(8))):
        inputs = samples.batch(indices).inputs
        wanted = torch_run(model, task)(inputs)["logits"]
        np.testing.assert_allclose(engine.run(inputs)["logits"], wanted, atol=1e-4 * float(np.abs(wanted).max()))
