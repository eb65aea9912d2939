"""A clock that never flakes: engines run for real, and then claim the time that their weights say.

And what the tests of the command line do with it.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import exports
import numpy as np
import onnx
from onnx import numpy_helper
from typer.testing import CliRunner

from prune2deploy import provenance
from prune2deploy.cli import app
from prune2deploy.errors import UnstableMeasurementError
from prune2deploy.profiling import additivity, stacks, sweep
from prune2deploy.pruning.workbench import Workbench
from prune2deploy.runtimes import openvino, workload
from prune2deploy.runtimes.measure import Timing
from prune2deploy.runtimes.nvml import GpuWatch
from prune2deploy.runtimes.openvino import OpenVino, OpenVinoEngine
from prune2deploy.runtimes.ort import OnnxRuntime, OrtEngine

PRODUCTS = ("MatMul", "MatMulInteger", "MatMulNBits", "Gemm", "FusedMatMul", "Conv", "FusedConv")
CALL_MS, MS_PER_BYTE = 0.05, 3e-5  # the tiny models, dense, take 3 ms
PADDED_MS, USED_MS = 0.4, 0.1  # more, for inputs with padding, and in a session that has run other shapes
FINAL = "measuring dense and pruned"  # how the measurement that decides about an export is announced
CANDIDATE = "measuring the candidate"
BLOCKS = ("timing attention", "timing ffn")
PADDING = "timing padding"


def multiplied_bytes(onnx_file):
    """Bytes of the weights that matrix products read, each time that one does."""
    graph = onnx.load(onnx_file).graph
    sizes = {entry.name: numpy_helper.to_array(entry).nbytes for entry in graph.initializer}
    for node in graph.node:  # weights of fewer bits are multiplied as they are stored
        if node.op_type == "DequantizeLinear" and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
    return sum(sizes.get(name, 0) for node in graph.node if node.op_type in PRODUCTS for name in node.input)


def has_padding(inputs):
    """Whether a mask among `inputs`, of tokens (whole models) or as layers take it (block graphs), hides the last token.

    Layers' own masks may hide more: what comes later, or is too far away.
    """
    masks = [
        array for name, array in inputs.items()
        if "mask" in name or (name.startswith("argument") and array.ndim == 4 and array.shape[1] == 1)  # alike for all heads
    ]  # fmt: skip
    ends = [mask[..., -1, -1] if mask.ndim == 4 else mask[..., -1] for mask in masks]
    return any((end < 0).any() if end.dtype.kind == "f" else not end.all() for end in ends)


class Steady:
    """Runs for real, so that graphs and inputs must fit; as on a real machine, padding costs time, and so does a past."""

    def begin(self, path):
        graph = path.parent / "onnx" / "model.onnx" if path.suffix == ".xml" else path
        size = multiplied_bytes(graph) if graph.exists() else path.with_suffix(".bin").stat().st_size
        self.ms = CALL_MS + MS_PER_BYTE * size
        self.shapes = set()
        return self

    def run(self, inputs):
        self.shapes |= {array.shape for array in inputs.values()}
        return super().run(inputs)

    def timed(self, inputs):
        def run():
            assert all(np.isfinite(output).all() for output in self.run(inputs).values())
            return self.ms + PADDED_MS * run.padded + USED_MS * bool(run.other_shapes)

        run.padded = has_padding(inputs)
        run.other_shapes = self.shapes - {array.shape for array in inputs.values()}
        return run


class SteadyEngine(Steady, OrtEngine):
    def __init__(self, session, path):
        super().__init__(session)
        self.begin(path)


class SteadyOpenVino(Steady, OpenVinoEngine):
    pass


@dataclass
class Clock:
    """Stands for `interleaved`.

    `asked`: what was measured so far; `used`: that of it where an engine had run other shapes; `uneven`: where one had and
    another had not; `padded`: where some of the inputs had padding; `factor`: of (description, engine), to slow one down.
    """

    asked: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    uneven: list[str] = field(default_factory=list)
    padded: list[str] = field(default_factory=list)
    factor: Callable[[str, str], float] = lambda description, name: 1.0

    def interleaved(self, runs, reference, rounds, progress, description, seed=0, watch=None):
        self.asked.append(description)
        if any(timed.other_shapes for timed in runs.values()):
            self.used.append(description)
        if len({frozenset(timed.other_shapes) for timed in runs.values()}) > 1:
            self.uneven.append(description)
        if any(timed.padded for timed in runs.values()):
            self.padded.append(description)
        with watch or nullcontext():
            ms = {name: timed() * self.factor(description, name) for name, timed in runs.items()}
        if isinstance(watch, GpuWatch) and watch.problem:  # that of a GPU which a test made up
            raise UnstableMeasurementError(watch.problem)
        return {
            name: Timing(each, 0.01, each, each, rounds, each / ms[reference], 1e-5, 0.02) for name, each in ms.items()
        }

    def count(self, description):
        return sum(asked.startswith(description) for asked in self.asked)


def install(monkeypatch):
    found = Clock()
    load = OnnxRuntime.load
    monkeypatch.setattr(OnnxRuntime, "load", lambda self, path: SteadyEngine(load(self, path).session, path))
    monkeypatch.setattr(openvino, "OpenVinoEngine", SteadyOpenVino)
    compiled = OpenVino.load
    monkeypatch.setattr(OpenVino, "load", lambda self, path: compiled(self, path).begin(path))
    for module in (sweep, additivity, workload):
        monkeypatch.setattr(module, "interleaved", found.interleaved)
    exports.share(monkeypatch)
    for name in ("FITTED", "MIXED"):
        monkeypatch.setattr(additivity, name, 0)  # times that add up exactly need no fit
    monkeypatch.setattr(additivity, "UNSEEN", 1)
    monkeypatch.setattr(stacks, "LAYERS", 1)  # nor layers that come again
    return found


def interrupted(monkeypatch, nth):
    """Ctrl-C at the `nth` model that is pruned; returns the values of the budgets that are pruned to from here on."""
    pruned, real = [], Workbench.prune_to

    def prune_to(workbench, budget, aim):
        pruned.append(budget.value)
        if len(pruned) == nth:
            raise KeyboardInterrupt
        return real(workbench, budget, aim)

    monkeypatch.setattr(Workbench, "prune_to", prune_to)
    return pruned


def upgraded(patch, package):
    """Another version of `package` is installed from here on."""
    real = provenance.version
    patch.setattr(provenance, "version", lambda name: f"{real(name)}.post1" if name == package else real(name))


def cli(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(result, code=0):
    """What a command said with --json: one document on stdout, whatever stood on stderr."""
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def refused(result, *needles, code=2):
    """The message of a command that refused: one line, the last on stderr, and nothing on stdout."""
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for needle in needles:
        assert str(needle) in lines[-1]
    return lines[-1]


def rewrite(file, old, new):
    """Put `new` for `old` in `file`, which has to hold it: an edit that changes nothing tests nothing."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def files_in(root):
    """Content of every file below `root` outside hidden folders; half-written files count wherever they are."""
    found = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.name.endswith(".partial") or not any(part.startswith(".") for part in parts):
            found["/".join(parts)] = path.read_bytes() if path.is_file() else None
    return found
