import os
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from prune2deploy.config import Target
from prune2deploy.errors import CheckFailedError, InputError, MissingPackageError
from prune2deploy.runtimes import ort
from prune2deploy.runtimes.base import DeviceInfo
from prune2deploy.runtimes.ort import OnnxRuntime, OrtCudaEngine, OrtEngine
from prune2deploy.runtimes.processors import usable_cores
from prune2deploy.runtimes.registry import runtime_for


@pytest.fixture
def doubling(tmp_path):
    """A graph that doubles its input."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 2])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 2])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [value], [result]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_engine_runs_the_graph(doubling):
    engine = runtime_for(Target(threads=1)).build(doubling)
    inputs = {"x": np.array([[1.0, 2.0], [3.0, -4.0]], dtype=np.float32)}
    outputs = engine.run(inputs)
    assert list(outputs) == ["y"]
    assert np.array_equal(outputs["y"], 2 * inputs["x"])
    assert engine.timed(inputs)() > 0


@pytest.fixture
def two_outputs(tmp_path):
    """A graph that doubles its input, and negates it."""
    names = ("x", "twice", "minus")
    value, *results = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2]) for name in names)
    nodes = [onnx.helper.make_node("Neg", ["x"], ["minus"]), onnx.helper.make_node("Add", ["x", "x"], ["twice"])]
    graph = onnx.helper.make_graph(nodes, "both", [value], results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "both.onnx")
    return tmp_path / "both.onnx"


@pytest.mark.parametrize("engine_class", [OrtEngine, OrtCudaEngine])
def test_outputs_come_by_name(two_outputs, engine_class):
    engine = engine_class(OnnxRuntime(Target()).load(two_outputs).session)
    x = np.array([[1.0, 2.0]], dtype=np.float32)
    np.testing.assert_equal(engine.run({"x": x}), {"twice": 2 * x, "minus": -x})


def test_engine_uses_the_threads_that_it_says(doubling):
    for threads in (1, 2):
        runtime = OnnxRuntime(Target(threads=threads))
        options = runtime.build(doubling).session.get_session_options()
        assert options.intra_op_num_threads == runtime.describe().threads == threads
        for key, value in runtime.describe().settings.items():
            assert options.get_session_config_entry(key) == value


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x07" * 50])
def test_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="ONNX Runtime does not load it") as caught:
        OnnxRuntime(Target()).build(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="ONNX Runtime does not load it"):
        OnnxRuntime(Target()).build(tmp_path / "nowhere.onnx")


def test_gpu_target_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match="no CUDA here") as caught:
        runtime_for(Target(device="gpu"))
    assert "CPUExecutionProvider" in str(caught.value)
    assert "--cpu" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_silent_fall_back_to_the_cpu_is_noticed(doubling, monkeypatch):
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    runtime = OnnxRuntime(Target(device="gpu"))

    class Session:
        def __init__(self, *args, **kwargs):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(
        InputError, match="gave CPUExecutionProvider where CUDAExecutionProvider was asked for"
    ):
        runtime.build(doubling)


# CUDA graphs: the session is one on the CPU, which takes the same calls


class Recording:
    """A session that notes which graph each run asks for; from its second bound run on, it answers `wrong` if given."""

    def __init__(self, session, wrong=None):
        self.session, self.wrong, self.plain, self.bound = session, wrong, [], []

    def run(self, outputs, inputs, options=None):
        self.plain.append(graph_of(options))
        return self.session.run(outputs, inputs, options)

    def run_with_iobinding(self, binding, options=None):
        self.bound.append(graph_of(options))
        self.session.run_with_iobinding(binding, options)
        if self.wrong is not None and len(self.bound) > 1:
            binding.get_outputs()[-1].update_inplace(self.wrong)

    def __getattr__(self, name):
        return getattr(self.session, name)


def graph_of(options):
    return options and options.get_run_config_entry("gpu_graph_id")


@pytest.fixture
def on_the_cpu(monkeypatch):
    value = onnxruntime.OrtValue
    from_numpy, of_shape = value.ortvalue_from_numpy, value.ortvalue_from_shape_and_type
    monkeypatch.setattr(value, "ortvalue_from_numpy", lambda array, device, number: from_numpy(array))
    monkeypatch.setattr(
        value, "ortvalue_from_shape_and_type", lambda shape, kind, device, number: of_shape(shape, kind)
    )


def test_every_shape_has_a_cuda_graph_of_its_own_and_plain_runs_have_none(doubling, on_the_cpu):
    session = Recording(OnnxRuntime(Target()).load(doubling).session)
    engine = OrtCudaEngine(session, cuda_graphs=True)
    for rows in (1, 3):
        run = engine.timed({"x": np.ones((rows, 2), dtype=np.float32)})
        assert run() > 0
    engine.run({"x": np.ones((5, 2), dtype=np.float32)})
    assert session.plain == ["-1"] * 3
    assert session.bound == ["1"] * 3 + ["2"] * 3, "captured, replayed to be checked, replayed to be timed"


def test_a_replay_that_answers_otherwise_is_not_timed(doubling, on_the_cpu):
    session = Recording(OnnxRuntime(Target()).load(doubling).session, wrong=np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(CheckFailedError, match="replaying a CUDA graph gives other answers"):
        OrtCudaEngine(session, cuda_graphs=True).timed({"x": np.ones((1, 2), dtype=np.float32)})


def test_nor_is_one_where_the_last_of_several_outputs_is_another(two_outputs, on_the_cpu):
    x = np.ones((1, 2), dtype=np.float32)
    for wrong, refused in ((-x, False), (x, True)):
        engine = OrtCudaEngine(Recording(OnnxRuntime(Target()).load(two_outputs).session, wrong), cuda_graphs=True)
        if not refused:
            assert engine.timed({"x": x})() > 0
            continue
        with pytest.raises(CheckFailedError, match="gives other answers"):
            engine.timed({"x": x})


def test_without_cuda_graphs_nothing_is_captured(doubling, on_the_cpu):
    session = Recording(OnnxRuntime(Target()).load(doubling).session)
    assert OrtCudaEngine(session).timed({"x": np.ones((1, 2), dtype=np.float32)})() > 0
    assert session.plain == session.bound == [None]


@pytest.mark.parametrize("graphs", [False, True])
def test_a_session_on_cuda_gets_the_settings_that_its_description_names(doubling, monkeypatch, graphs):
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    asked = []

    class Session:
        def __init__(self, path, options, providers):
            asked.extend(providers)

        def get_providers(self):
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    runtime = OnnxRuntime(Target(device="gpu", cuda_graphs=graphs))
    assert runtime.load(doubling).cuda_graphs is graphs
    ((provider, settings),) = asked
    assert provider == "CUDAExecutionProvider"
    assert settings.items() <= runtime.describe().settings.items()
    assert ("enable_cuda_graph" in settings) is graphs


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'prune2deploy\[cpu\]'"):
        OnnxRuntime(Target()).describe()


def test_description_says_what_latency_depends_on():
    info = OnnxRuntime(Target(threads=3)).describe()
    assert (info.name, info.version, info.provider) == (
        "onnxruntime",
        onnxruntime.__version__,
        "CPUExecutionProvider",
    )
    assert info.threads == 3
    assert info.settings["session.intra_op.allow_spinning"] == "0"
    if hasattr(os, "sched_getaffinity"):
        assert set(info.affinity) == os.sched_getaffinity(0)


def test_default_is_a_thread_for_each_core_that_we_may_use(monkeypatch):
    monkeypatch.setattr(ort, "usable_cores", lambda: 3)
    assert OnnxRuntime(Target()).describe().threads == 3
    assert OnnxRuntime(Target(threads=5)).describe().threads == 5


def test_device_is_this_machine():
    device = OnnxRuntime(Target()).device()
    assert device.kind == "cpu"
    assert device.cores == usable_cores()
    assert device.name
    assert device.memory_gb > 0


@pytest.mark.parametrize(
    ("device", "slug"),
    [
        (DeviceInfo(kind="cpu", name="Intel(R) Xeon(R) Gold 6240 @ 2.60GHz", cores=4, memory_gb=8),
         "intel-r-xeon-r-gold-6240-2-60ghz-4c"),
        (DeviceInfo(kind="gpu", name="NVIDIA H100 80GB", cores=132, memory_gb=80), "nvidia-h100-80gb"),
        (DeviceInfo(kind="cpu", name="../../etc", cores=1, memory_gb=1), "etc-1c"),
    ],
)  # fmt: skip
def test_device_name_makes_a_safe_folder_name(device, slug):
    assert device.slug == slug
