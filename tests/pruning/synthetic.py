"""Costs, tables and plans made up for the pruning tests."""

import numpy as np
import torch
from transformers import BertConfig, BertModel

from prune2deploy.config import WorkloadPoint
from prune2deploy.models.family import blocks_of, families
from prune2deploy.models.signature import signature_of
from prune2deploy.models.table import Curve, LatencyTable, PointTable
from prune2deploy.progress import Progress
from prune2deploy.pruning.search.costs import Costs, FlopCosts, macs_of
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.lengths import lengths_of
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo


class GivenCosts(Costs):
    """Costs written down: {kind: {width: cost}}, in lower precisions {kind: {precision: {width: cost}}}."""

    unit = "pounds"

    def __init__(self, by_kind, fixed=0.0, lower=None, of_a_change=0.0):
        self.by_kind, self.fixed, self.lower, self.of_a_change = by_kind, fixed, lower or {}, of_a_change

    def precisions(self, block):
        return [None, *self.lower.get(block.kind, {})]

    def widths(self, block, precision=None):
        return sorted(self._of(block, precision))

    def block(self, block, width, precision=None):
        return self._of(block, precision)[width]

    def change(self, before, after):
        return self.of_a_change if before != after else 0.0

    def _of(self, block, precision):
        return self.lower[block.kind][precision] if precision else self.by_kind[block.kind]


def config(layers, heads, filters, hidden):
    return BertConfig(
        num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=filters, hidden_size=hidden, num_labels=3,
        vocab_size=20, max_position_embeddings=16, attn_implementation="eager",
    )  # fmt: skip


def signature(layers=2, heads=4, filters=64, hidden=32):
    return signature_of(config(layers, heads, filters, hidden))


def config_of(of):
    """Of a BERT of the sizes that the signature `of` has."""
    units = (of.curves[kind].units for kind in ("attention", "ffn"))
    return config(len(of.blocks) // 2, *units, of.fixed["hidden_size"])


def blocks_in(of):
    """The blocks of a BERT of the sizes that the signature `of` has."""
    return families()["bert"].blocks(config_of(of))


def block(kind, units, unit_size):
    """Of the second layer of a BERT."""
    found = blocks_in(signature(heads=units, filters=units, hidden=units * unit_size))
    return next(block for block in found[2:] if block.kind == kind)


def flop_costs(of, tokens):
    """Of a BERT of the sizes that the signature `of` has."""
    model = BertModel(config_of(of)).eval()
    return FlopCosts(macs_of(model, blocks_of(model), {"input_ids": torch.ones(2, 8, dtype=torch.long)}, tokens))


def flop_costs_of(model, samples):
    """Of `model` on samples of their mean length."""
    tokens = float(lengths_of(model, samples).mean())
    return FlopCosts(macs_of(model, blocks_of(model), samples.batch([0]).tensors(), tokens))


def curve(widths, ms):
    return Curve(widths=widths, ms=ms, standard_error_ms=[0.001] * len(widths))


POINTS = (WorkloadPoint(batch=1, seq_len=16),)


def latency_table(of, points=POINTS, fixed=2.0, head=0.3, filters=1.0, step=8, **changes):
    """A table in which a head costs `head` and all filters of a block `filters` ms, on somebody else's machine."""
    filters_of_all, layers = of.curves["ffn"].units, len(of.blocks) // 2
    heads, units = list(range(of.curves["attention"].units + 1)), [*range(0, filters_of_all, step), filters_of_all]
    curves = {
        "attention": curve(heads, [head * width for width in heads]),
        "ffn": curve(units, [filters * width / filters_of_all for width in units]),
    }
    dense = fixed + layers * (curves["attention"].ms[-1] + filters)
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
