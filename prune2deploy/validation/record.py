"""`report.json`: everything that was checked of a package, and what came out."""

from typing import Literal

from pydantic import Field

from prune2deploy.budget import Budget
from prune2deploy.config import WorkloadPoint
from prune2deploy.files import Record
from prune2deploy.models.checkpoint import FitRound, StageResult
from prune2deploy.models.signature import Signature
from prune2deploy.models.table import PointTable
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo


class Check(Record):
    """One promise and whether it was kept."""

    name: str
    passed: bool
    detail: str


class PointLatency(Record):
    """Latency of one engine at one workload point, milliseconds; `spread`: interquartile range over median."""

    point: WorkloadPoint
    median_ms: float
    p90_ms: float
    p95_ms: float
    spread: float
    n: int


class EngineLatency(Record):
    """Latency of one engine; `ms`: the points' medians, averaged with the workload's weights."""

    ms: float
    points: list[PointLatency]


class MetricRecord(Record):
    """A task metric in points."""

    metric: str
    value: float
    standard_error: float
    n: int


class LossRecord(Record):
    """Points of the task metric that pruning cost; the standard error is that of the samples' differences."""

    points: float
    standard_error: float


class ClassRecord(Record):
    """F1 of one class, in points; `n`: how often it is right."""

    name: str
    n: int
    dense: float
    pruned: float


class Numerics(Record):
    """Logits on real samples. `onnx_*`: the exported graph against PyTorch; `dense_*`: pruned against dense."""

    samples: int
    onnx_max_error: float
    tolerance: float
    largest_logit: float
    dense_mean_difference: float
    batch_difference: float = Field(0.0, description="of a sample alone and in a batch, where rounding depends on the batch")
    same_prediction: float = Field(ge=0, le=1, description="share of samples that dense and pruned agree on")


class Report(Record):
    """The report of one package. `headline` is its first line and names whatever failed."""

    schema_version: int = Field(2, ge=2, le=2)
    verdict: Literal["passed", "failed"]
    headline: str
    name: str
    created_at: str
    source: str
    task: str
    data: str
    method: str
    budget: Budget
    limit_ms: float | None = Field(None, description="the budget in milliseconds; None for a FLOPs budget")
    checks: list[Check]
    warnings: list[str] = Field(default_factory=list, description="checks that were decided by less than a standard error")
    signature: Signature
    widths: dict[str, int] = Field(description="kept units of every block, in forward order")
    precisions: dict[str, str] = Field(default_factory=dict, description="of blocks that are not in the engine's own")
    parameters_dense: int
    parameters_pruned: int
    onnx_bytes_dense: int
    onnx_bytes_pruned: int
    fused: bool = Field(description="whether a fused graph was measured faster and equal, and is the one exported")
    numerics: Numerics
    metric_dense: MetricRecord
    metric_pruned: MetricRecord
    lost: LossRecord | None = Field(None, description="None in reports of before it was measured")
    classes: list[ClassRecord] = Field(default_factory=list, description="of tasks that have any")
    latency_dense: EngineLatency
    latency_pruned: EngineLatency
    speedup: float = Field(description="dense over pruned, from one interleaved run")
    dense_in_less: dict[str, float] = Field(
        default_factory=dict, description="milliseconds of the dense model with all blocks in a lower precision"
    )
    predicted_ms: float | None = Field(None, description="by the table, scaled to the dense latency of this run")
    prediction_error: float | None = None
    stages: list[StageResult]
    fitted: list[FitRound]
    seconds: dict[str, float] = Field(description="wall time of each stage of the work")
    peak_memory_gb: float
    device: DeviceInfo
    runtime: RuntimeInfo
    block_ms: dict[str, float] = Field(
        default_factory=dict, description="what blocks cost in the engine, profiled apart; empty where it does not tell"
    )
    table_points: list[PointTable] = Field(description="the latency table's curves; empty without a table")
    table_error: float | None = None
    versions: dict[str, str]
