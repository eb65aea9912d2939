"""What this machine can do, and what to install for the rest."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from prune2deploy.files import Record
from prune2deploy.runtimes.devices import cpu_device, cuda_device
from prune2deploy.runtimes.ort import PROVIDERS
from prune2deploy.runtimes.processors import affinity

EXTRAS = {
    "onnxruntime": ("cpu", "profile, export and validate on a CPU"),
    "tritonclient": ("triton", "writing and checking Triton's config.pbtxt"),
    "openvino": ("openvino", "OpenVINO on the CPU"),
    "tensorrt": ("tensorrt", "TensorRT engines"),
}


class Capability(Record):
    """One thing that this machine can or cannot do."""

    name: str
    available: bool
    detail: str


class Findings(Record):
    """Of one machine."""

    versions: dict[str, str]
    capabilities: list[Capability]

    def lines(self) -> list[str]:
        """For a person to read."""
        width = max(len(capability.name) for capability in self.capabilities)
        rows = [f"{'yes' if c.available else 'no ':<4} {c.name:<{width}}  {c.detail}" for c in self.capabilities]
        return [", ".join(f"{name} {number}" for name, number in self.versions.items()), *rows]


def examine() -> Findings:
    """Look at this machine."""
    from prune2deploy.provenance import versions

    capabilities = [
        _cpu(), _onnxruntime_cpu(), _gpu(), _onnxruntime_gpu(), _package("tritonclient"), _package("openvino"),
        _tensorrt(),
    ]  # fmt: skip
    return Findings(versions=versions(), capabilities=capabilities)


def _cpu() -> Capability:
    device = cpu_device()
    detail = f"{device.name}, {device.cores} physical cores usable (processors {affinity()}), {device.memory_gb} GiB"
    return Capability(name="CPU", available=True, detail=detail)


def _onnxruntime_cpu() -> Capability:
    if find_spec("onnxruntime") is None:
        return Capability(name="ONNX Runtime on the CPU", available=False, detail=_advice("onnxruntime"))
    return _session("ONNX Runtime on the CPU", PROVIDERS["cpu"], "reinstall onnxruntime")


def _gpu() -> Capability:
    try:
        device = cuda_device()
    except Exception as error:  # torch without CUDA, no driver, no device: all mean that there is none to use
        return Capability(name="NVIDIA GPU", available=False, detail=str(error).splitlines()[0])
    return Capability(name="NVIDIA GPU", available=True, detail=f"{device.name}, {device.memory_gb} GiB")


def _onnxruntime_gpu() -> Capability:
    advice = "on a machine with an NVIDIA GPU: pip uninstall onnxruntime; pip install 'prune2deploy[gpu]'"
    if find_spec("onnxruntime") is None:
        return Capability(name="ONNX Runtime on CUDA", available=False, detail=advice)
    return _session("ONNX Runtime on CUDA", PROVIDERS["gpu"], advice)


def _session(name: str, provider: str, advice: str) -> Capability:
    """Whether a session truly runs on `provider`: the list of providers also names those whose libraries are missing."""
    import onnx
    import onnxruntime as ort
    from onnx import helper

    if provider not in ort.get_available_providers():
        return Capability(name=name, available=False, detail=f"onnxruntime {ort.__version__} lacks {provider}; {advice}")
    value = [helper.make_tensor_value_info(side, onnx.TensorProto.FLOAT, [1]) for side in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    got = ort.InferenceSession(model.SerializeToString(), providers=[provider]).get_providers()[0]
    if got != provider:
        return Capability(name=name, available=False, detail=f"a session got {got}: CUDA or cuDNN libraries are missing")
    return Capability(name=name, available=True, detail=f"onnxruntime {ort.__version__}")


def _package(package: str) -> Capability:
    try:
        return Capability(name=package, available=True, detail=version(package))
    except PackageNotFoundError:
        return Capability(name=package, available=False, detail=_advice(package))


def _tensorrt() -> Capability:
    """Whether a builder can be made: a package that is installed may lack its libraries."""
    from prune2deploy.errors import MissingPackageError
    from prune2deploy.runtimes.trt import import_tensorrt

    try:
        trt = import_tensorrt()
        trt.Builder(trt.Logger(trt.Logger.ERROR))
    except MissingPackageError:
        return Capability(name="TensorRT", available=False, detail=_advice("tensorrt"))
    except Exception as error:  # no library, no driver, no GPU: its bindings raise errors of several kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return Capability(name="TensorRT", available=False, detail=f"it makes no builder: {reason}")
    return Capability(name="TensorRT", available=True, detail=f"{trt.__name__} {trt.__version__}")


def _advice(package: str) -> str:
    extra, purpose = EXTRAS[package]
    return f"for {purpose}: pip install 'prune2deploy[{extra}]'"
