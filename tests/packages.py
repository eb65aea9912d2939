"""Packages made in no time: a graph that is a few sums, in everything else as `export` writes them."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from prune2deploy.config import ServingSettings
from prune2deploy.exporting.parts import serve_python
from prune2deploy.files import write_arrays
from prune2deploy.repository.manifest import Manifest, own_files, shared_files, write_sealed
from prune2deploy.repository.triton import model_config, tensor_specs, write_config, write_warmup
from prune2deploy.repository.versions import LABELS_FILE, adopt, newest_manifest, publish, staging, versions_of

LABELS = ("art", "sport", "war")
WEIGHTS = np.array([[1.0, -0.5, 0.25]], np.float32)
IDS = np.array([[2, 7, 9, 3], [4, 1, 1, 3]], np.int64)
SCORE = {"metric": "accuracy", "value": 90.0, "standard_error": 1.0, "n": 100}
DEVICE = {"kind": "cpu", "name": "a pretended CPU", "cores": 2, "memory_gb": 4.0}
RUNTIME = {"name": "onnxruntime", "version": "1.31.1", "provider": "CPUExecutionProvider", "threads": 1, "affinity": [0],
           "settings": {}}  # fmt: skip


def ort(threads):
    """What a backend of ONNX Runtime is told."""
    return {"intra_op_thread_count": str(threads), "inter_op_thread_count": "1"}


def expected(inputs, bias):
    """What a package with this `bias` answers."""
    total = (inputs["input_ids"] * inputs["attention_mask"]).sum(1, keepdims=True).astype(np.float32)
    return total @ WEIGHTS + np.float32(bias)


def save_graph(path, bias):
    """logits = Σ (input_ids · attention_mask) · WEIGHTS + bias."""

    def value(name, kind, *dims):
        return helper.make_tensor_value_info(name, kind, ["batch", *dims])

    ids, mask = (value(name, TensorProto.INT64, "sequence") for name in ("input_ids", "attention_mask"))
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axes"], ["total"], keepdims=1),
        helper.make_node("Cast", ["total"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["real", "weights"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
    ]
    constants = {"axes": np.array([1], np.int64), "weights": WEIGHTS, "bias": np.full(3, bias, np.float32)}
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "sums", [ids, mask], [value("logits", TensorProto.FLOAT, 3)], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_staged(staged, version, bias, backend="python", source="onnx_model", parameters=None, **settings):
    """Write an entry with one version into `staged`."""
    folder = staged / str(version)
    save_graph(folder / "model.onnx", bias)
    if backend == "python":
        serve_python(folder, source, ["numpy", "onnxruntime"])
    (staged / LABELS_FILE).write_text("".join(f"{label}\n" for label in LABELS))
    inputs = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    serving = ServingSettings(backend=backend, **settings)
    config = model_config(
        staged.name, *tensor_specs(folder / "model.onnx"), max_batch_size=8, parameters=parameters or ort(1),
        backend=backend, serving=serving, labels_file=LABELS_FILE, warmups=[write_warmup(staged, "workload", inputs)],
    )  # fmt: skip
    write_config(staged, config)
    write_arrays(folder / "reference.safetensors", {
        **{f"input.{name}": array for name, array in inputs.items()}, "output.logits": expected(inputs, bias),
        "raw.TEXT.0": np.frombuffer(b"a text", np.uint8), "raw.TEXT.1": np.frombuffer(b"another", np.uint8),
        **{f"workload.0.{name}": array for name, array in inputs.items()},
        "workload_output.0.logits": expected(inputs, bias),
    })  # fmt: skip


def seal(staged, version):
    """Write the manifest of the version in `staged`."""
    manifest = Manifest.model_validate({
        "name": staged.name, "version": version,
        "created_at": "2026-01-01T00:00:00+00:00", "verdict": "passed", "task": "text-classification",
        "source": "models/tiny", "source_sha256": "0" * 64, "weights_sha256": "1" * 64, "device": DEVICE,
        "runtime": RUNTIME, "backend": "python", "target": {}, "workload": [{"batch": 2, "seq_len": 4}],
        "max_batch_size": 8, "method": "ours", "budget": {"kind": "speedup", "value": 2.0}, "dense_ms": 2.0,
        "measured_ms": 1.0, "speedup": 2.0, "metric_dense": SCORE, "metric_pruned": SCORE, "checks": [],
        "tolerance": 1e-4, "versions": {}, "files": own_files(staged / str(version)), "shared": shared_files(staged),
    })  # fmt: skip
    write_sealed(manifest, staged / str(version))


def release(repository, name, bias=None, keep=2, grace=0, **settings):
    """Put a package, which adds `bias` (its version) to its logits, into `repository`, as `export` does.

    Returns its version.
    """
    newest_manifest(repository, name)
    with staging(repository, name) as stage:
        version = max(versions_of(repository / name), default=0) + 1
        write_staged(stage / name, version, version if bias is None else bias, **settings)
        if (repository / name).exists():
            adopt(repository / name, stage / name)
        seal(stage / name, version)
        publish(stage / name, repository / name, keep, grace)
    return version


RELEASES = """
import sys
from pathlib import Path
import packages
while True:
    packages.release(Path(sys.argv[1]), "sums", keep=int(sys.argv[2]), grace=float(sys.argv[3]))
    print("released", flush=True)
"""


@contextmanager
def releasing(repository, keep, grace=0):
    """A process that puts one version of "sums" after another into `repository`; it is killed on leaving."""
    process = subprocess.Popen(
        [sys.executable, "-c", RELEASES, str(repository), str(keep), str(grace)],
        stdout=subprocess.PIPE, cwd=Path(__file__).parent,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == b"released\n"
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def flip(file):
    """Change one byte."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def ragged(rng, batch, length):
    """Ids of texts of several lengths, padded to `length`."""
    mask = np.zeros((batch, length), np.int64)
    for row in mask:
        row[: rng.integers(2, length + 1)] = 1
    mask[0] = 1
    return {"input_ids": rng.integers(5, 40, (batch, length)) * mask, "attention_mask": mask}
