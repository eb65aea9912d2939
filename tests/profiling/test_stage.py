import re
import zlib

import numpy as np
import onnx
import pytest

from prune2deploy.errors import InputError, UnstableMeasurementError
from prune2deploy.models.table import read_table
from prune2deploy.profiling import additivity, stacks, sweep
from prune2deploy.profiling.stage import profile
from prune2deploy.runtimes.measure import Timing
from prune2deploy.runtimes.ort import OnnxRuntime, OrtEngine

# milliseconds for one row; blocks of whole models take SCALE times what they take in stacks
FIXED, STACK_FIXED, SCALE = 3.0, 0.7, 1.1
POINTS = [{"batch": 1, "seq_len": 8, "weight": 2.0}, {"batch": 3, "seq_len": 16}]


def attention_ms(heads):
    return 0.2 * heads + (0.1 if heads else 0)


def ffn_ms(filters):
    return 0.01 * filters + (0.5 if filters > 32 else 0)


def widths_in(onnx_file):
    """Per layer and kind, the units that a graph really has, told from its biases."""
    found = {}
    for entry in onnx.load(onnx_file).graph.initializer:
        if matched := re.search(r"(\d+)\.(attention\.self\.query|intermediate\.dense)\.bias$", entry.name):
            kind, unit_size = ("ffn", 1) if matched[2].startswith("inter") else ("attention", 8)
            found[int(matched[1]), kind] = (kind, entry.dims[0] // unit_size)
    return [found[key] for key in sorted(found)]


class Synthetic(OrtEngine):
    """Runs for real, so that graphs and inputs must fit, but takes the time that its widths say."""

    additive = True

    def __init__(self, session, path):
        super().__init__(session)
        self.whole = path.name.startswith(("dense", "whole"))
        self.widths = widths_in(path)

    def timed(self, inputs):
        return lambda: self.pretended_ms(inputs)

    def pretended_ms(self, inputs):
        assert all(np.isfinite(output).all() for output in self.run(inputs).values())
        first = next(iter(inputs.values()))
        rows = first.shape[0]
        blocks = sum(
            attention_ms(width) if kind == "attention" else ffn_ms(width) for kind, width in self.widths
        )
        if self.whole and not self.additive:
            blocks *= 0.5 + zlib.crc32(str(self.widths).encode()) % 1000 / 1000
        return rows * (FIXED + SCALE * blocks if self.whole else STACK_FIXED + blocks)


def exact_times(runs, reference, rounds, progress, description, seed=0, watch=None):
    ms = {name: run() for name, run in runs.items()}
    return {
        name: Timing(time, 0.01, time, time, rounds, time / ms[reference], 1e-5, 0.02)
        for name, time in ms.items()
    }


@pytest.fixture
def synthetic(monkeypatch):
    real = OnnxRuntime.load
    monkeypatch.setattr(OnnxRuntime, "load", lambda self, path: Synthetic(real(self, path).session, path))
    for module in (sweep, additivity):
        monkeypatch.setattr(module, "interleaved", exact_times)
    monkeypatch.setattr(additivity, "FITTED", 2)
    monkeypatch.setattr(additivity, "UNSEEN", 3)


def test_profile_measures_what_blocks_cost(
    synthetic, bert_dir, text_data, make_project, tmp_path, monkeypatch
):
    project = make_project(
        bert_dir, text_data, "text-classification", tmp_path, workload=POINTS, target={"threads": 1}
    )

    # times that no sum of blocks explains: no table
    monkeypatch.setattr(Synthetic, "additive", False)
    with pytest.raises(UnstableMeasurementError, match="does not predict whole models"):
        profile(project)
    assert not project.profiles.exists()

    # the next try finds the graphs of the first
    monkeypatch.setattr(Synthetic, "additive", True)
    for module, name in ((stacks, "to_onnx"), (additivity, "export_onnx")):
        monkeypatch.setattr(module, name, None)
    table, path = profile(project)

    assert path.is_relative_to(project.profiles)
    assert read_table(path) == table
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert not list((project.state / "graphs").rglob("*.onnx")), "block graphs are not left behind"
    for entry, point in zip(table.points, POINTS, strict=True):
        rows = point["batch"]
        assert entry.point.model_dump() == {"weight": 1.0, **point}
        assert entry.fixed_ms == pytest.approx(rows * FIXED, rel=1e-4)
        assert entry.fixed_alone_ms == pytest.approx(rows * FIXED, rel=1e-4)
        assert entry.dense_ms == pytest.approx(
            rows * (FIXED + SCALE * 3 * (attention_ms(4) + ffn_ms(64))), rel=1e-4
        )
        assert entry.block_scale == pytest.approx(SCALE, rel=1e-4)
        for kind, widths, expected in (
            ("attention", [0, 1, 2, 3, 4], attention_ms), ("ffn", [0, 16, 32, 48, 64], ffn_ms)
        ):  # fmt: skip
            assert entry.curve(kind).widths == widths
            true_ms = [rows * SCALE * expected(width) for width in widths]
            assert entry.curve(kind).ms == pytest.approx(true_ms, rel=1e-3)
    assert len(table.checks) == 3 * len(POINTS)
    assert table.median_error < 1e-3
    assert max(abs(check.error) for check in table.checks) < 1e-3
    assert (table.runtime.threads, table.precision, table.device.kind) == (1, "fp32", "cpu")
    assert table.signature.name == "bert-l3-h32-a4x8-f64-gelu-o3"


def test_profile_refuses_a_workload_that_the_model_cannot_run(bert_dir, text_data, make_project, tmp_path):
    project = make_project(
        bert_dir, text_data, "text-classification", tmp_path, workload=[{"batch": 1, "seq_len": 64}]
    )
    with pytest.raises(InputError, match="at most 32 tokens"):
        profile(project)
    assert not project.profiles.exists()
