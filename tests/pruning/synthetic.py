"""Costs, tables and plans made up for the pruning tests."""

import numpy as np
import torch
from prune2deploy.models.registry import blocks_in

from prune2deploy.config import WorkloadPoint
from prune2deploy.models.family import ModelSignature
from prune2deploy.models.table import Curve, LatencyTable, PointTable
from prune2deploy.progress import Progress
from prune2deploy.pruning.search.costs import Costs
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.streams import BlockStatistics
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo


class GivenCosts(Costs):
    """Costs written down: {kind: {width: cost}}."""

    unit = "pounds"

    def __init__(self, by_kind, fixed=0.0):
        self.by_kind, self.fixed = by_kind, fixed

    def widths(self, kind):
        return sorted(self.by_kind[kind])

    def block(self, kind, width):
        return self.by_kind[kind][width]


def signature(layers=2, heads=4, filters=64, hidden=32):
    return ModelSignature(
        family="bert", layers=layers, hidden_size=hidden, heads=heads, kv_heads=heads, head_size=hidden // heads,
        intermediate_size=filters, activation="gelu", norm="post", outputs=3,
    )  # fmt: skip


def curve(widths, ms):
    return Curve(widths=widths, ms=ms, standard_error_ms=[0.001] * len(widths))


POINTS = (WorkloadPoint(batch=1, seq_len=16),)


def latency_table(of, points=POINTS, fixed=2.0, head=0.3, filters=1.0, step=8, **changes):
    """A table in which a head costs `head` and all filters of a block `filters` ms, on somebody else's machine."""
    heads, units = list(range(of.kv_heads + 1)), [*range(0, of.intermediate_size, step), of.intermediate_size]
    curves = {
        "attention": curve(heads, [head * width for width in heads]),
        "ffn": curve(units, [filters * width / of.intermediate_size for width in units]),
    }
    dense = fixed + of.layers * (curves["attention"].ms[-1] + filters)
    entries = [
        PointTable(point=point, fixed_ms=fixed, fixed_alone_ms=fixed, dense_ms=dense, block_scale=1.0, curves=curves)
        for point in points
    ]
    values = {
        "signature": of, "device": DeviceInfo(kind="cpu", name="Their CPU", cores=64, memory_gb=256),
        "runtime": RuntimeInfo(
            name="onnxruntime", version="0.0.1", provider="CPUExecutionProvider", threads=64, affinity=[], settings={}
        ),
        "precision": "fp32", "points": entries, "checks": [], "median_error": 0.01, "reference_spread": 0.01,
        "measured_at": "2026-01-01T00:00:00+00:00", "seconds": 60, "load_average": 0.1, "versions": {},
    }  # fmt: skip
    return LatencyTable(**{**values, **changes})


def random_scores(of, seed):
    """Scores of every unit, of very different sizes, as Fisher information is."""
    rng = np.random.default_rng(seed)
    return {block: rng.exponential(size=block.units) * rng.lognormal() for block in blocks_in(of)}


class FakeProgress:
    """Remembers what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def calibration(case, samples=None, seed=0, cache=None):
    return Calibration(case.model, case.task, case.samples if samples is None else samples, seed, Progress(), cache)


def statistics(x, y):
    """Statistics of a block from its inputs [tokens, k] and targets [tokens, d], all tokens alike."""
    sums = (x.sum(0), y.sum(0), x.T @ x, x.T @ y)
    return BlockStatistics(len(x), *(torch.from_numpy(np.asarray(total, dtype=np.float64)) for total in sums))


def unlabelled(samples):
    """`samples` without their labels."""
    copied = samples.select(list(range(len(samples))))
    copied.labels = None
    return copied
