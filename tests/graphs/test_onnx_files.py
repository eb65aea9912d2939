import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from prune2deploy.graphs import files
from prune2deploy.graphs.files import bytes_of, copy_graph, data_of, digest_of_graph, move_graph, remove_graph, save_graph
from prune2deploy.graphs.precision import cast
from prune2deploy.graphs.reweigh import Template


@pytest.fixture
def beside(monkeypatch):
    """Every graph with more than a few weights counts as large."""
    monkeypatch.setattr(files, "LARGEST", 100)


def product(scale=1.0):
    weight = scale * np.arange(1024, dtype=np.float32).reshape(32, 32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 32])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def put_out(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((1, 32), dtype=np.float32)})[0]


def test_a_small_graph_is_one_file(tmp_path):
    save_graph(product(), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_weights_of_a_large_one_lie_beside_it_wherever_it_goes(beside, tmp_path):
    wanted = np.ones((1, 32), dtype=np.float32) @ numpy_helper.to_array(product().graph.initializer[0])
    save_graph(product(), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 1000
    digest, size = digest_of_graph(tmp_path / "model.onnx"), bytes_of(tmp_path / "model.onnx")
    assert size > 4096
    (tmp_path / "there").mkdir()
    copy_graph(tmp_path / "model.onnx", tmp_path / "there" / "other.onnx")
    move_graph(tmp_path / "model.onnx", tmp_path / "there" / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    names = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert names == ["model.onnx", "model.onnx.data", "other.onnx", "other.onnx.data"]
    for name in ("model.onnx", "other.onnx"):
        np.testing.assert_array_equal(put_out(tmp_path / "there" / name), wanted)
        onnx.checker.check_model(str(tmp_path / "there" / name), full_check=True)
    move_graph(tmp_path / "there" / "model.onnx", tmp_path / "there" / "other.onnx")
    np.testing.assert_array_equal(put_out(tmp_path / "there" / "other.onnx"), wanted)
    save_graph(product(2.0), tmp_path / "there" / "other.onnx")
    assert digest_of_graph(tmp_path / "there" / "other.onnx") != digest
    np.testing.assert_array_equal(put_out(tmp_path / "there" / "other.onnx"), 2 * wanted)
    remove_graph(tmp_path / "there" / "other.onnx")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_small_graph_in_the_place_of_a_large_one_leaves_no_weights_behind(beside, monkeypatch, tmp_path):
    save_graph(product(), tmp_path / "model.onnx")
    monkeypatch.setattr(files, "LARGEST", 10**6)
    save_graph(product(), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_an_invalid_graph_leaves_what_was_there(tmp_path):
    save_graph(product(), tmp_path / "model.onnx")
    broken = product()
    broken.graph.node[0].input[1] = "nobody"
    with pytest.raises(onnx.checker.ValidationError):
        save_graph(broken, tmp_path / "model.onnx")
    assert put_out(tmp_path / "model.onnx").shape == (1, 32)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_large_graph_is_exported_cast_and_given_other_weights(beside, case, tmp_path):
    from prune2deploy.graphs.onnx_model import example_inputs, export_onnx, exported_form
    from prune2deploy.models.surgery import shrunk

    export_onnx(case.model, case.task, tmp_path / "dense.onnx")
    assert data_of(tmp_path / "dense.onnx").exists()
    cast(tmp_path / "dense.onnx", "fp16", tmp_path / "half.onnx")
    assert data_of(tmp_path / "half.onnx").exists()
    assert bytes_of(tmp_path / "half.onnx") < 0.7 * bytes_of(tmp_path / "dense.onnx")
    slim = shrunk(case.model, tiny.plan_keeping(case.model, tiny.PLANS["ragged"]))
    template = Template(tmp_path / "dense.onnx", exported_form(case.model, case.task), example_inputs(case.task))
    if template.write(exported_form(slim, case.task), tmp_path / "slim.onnx"):
        assert bytes_of(tmp_path / "slim.onnx") < bytes_of(tmp_path / "dense.onnx")
        assert sorted(path.name for path in tmp_path.glob("slim*")) == ["slim.onnx", "slim.onnx.data"]
