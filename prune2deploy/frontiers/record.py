"""`frontier.json`: what each budget came to."""

from pathlib import Path

from pydantic import Field

from prune2deploy.budget import Budget
from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import Record, read_record
from prune2deploy.models.checkpoint import PrunedRecord

FRONTIER_FILE = "frontier.json"


class Point(Record):
    """One budget and the model pruned to it, which lies in the folder `name`. All milliseconds are of one run."""

    name: str = Field(pattern=r"^[0-9][0-9.e+-]*(x|ms)$")
    budget: Budget
    predicted_ms: float
    measured_ms: float
    dense_ms: float
    speedup: float
    used: float = Field(description="share of the budget that was measured")
    metric: str
    score: float
    standard_error: float
    n: int
    lost: float = Field(description="points below the dense model, evaluation split")
    lost_standard_error: float | None = Field(None, description="of `lost`, from the differences of the samples")
    divergence: float = Field(description="from the dense model's predictions, held-out calibration samples, nats")


class Missed(Record):
    """A budget that no measured model kept to."""

    budget: Budget
    reason: str


class Frontier(Record):
    """Of one model, method and device; `points` from slow to fast."""

    schema_version: int = Field(1, ge=1, le=1)
    created_at: str
    source: str
    source_sha256: str
    method: str
    device: str
    workload: list[WorkloadPoint]
    dense_score: float
    points: list[Point]
    missed: list[Missed]
    versions: dict[str, str]

    def rows(self) -> list[str]:
        """The points as a Markdown table."""
        lines = [
            "| point | predicted ms | measured ms | of the budget | speedup | metric | lost |",
            "|---|---|---|---|---|---|---|",
        ]
        for p in self.points:
            error = "" if p.lost_standard_error is None else f" ± {p.lost_standard_error:.2f}"
            score = f"{p.score:.2f} ± {p.standard_error:.2f} {p.metric} (n = {p.n})"
            lines.append(
                f"| {p.name} | {p.predicted_ms:.2f} | {p.measured_ms:.2f} | {100 * p.used:.1f} % | {p.speedup:.2f}× "
                f"| {score} | {p.lost:.2f}{error} |"
            )
        return lines


def point_of(record: PrunedRecord, dense_table_ms: float) -> Point:
    """The point of a model that was pruned to a latency budget. `dense_table_ms`: what the table says of the dense model."""
    provenance = record.provenance
    chosen = next(each for each in provenance.fitted if each.predicted_ms == provenance.predicted_ms)
    dense, last = provenance.stages[0], [stage for stage in provenance.stages if stage.kept][-1]
    return Point(
        name=provenance.budget.slug, budget=provenance.budget,
        predicted_ms=chosen.predicted_ms * chosen.dense_ms / dense_table_ms, measured_ms=chosen.measured_ms,
        dense_ms=chosen.dense_ms, speedup=chosen.dense_ms / chosen.measured_ms,
        used=chosen.measured_ms / provenance.budget.limit_ms(chosen.dense_ms), metric=last.metric, score=last.score,
        standard_error=last.standard_error, n=last.n, lost=dense.score - last.score,
        lost_standard_error=last.lost_standard_error, divergence=last.divergence,
    )  # fmt: skip


def picked(directory: Path, name: str) -> Path:
    """The directory of the model at point `name` of the frontier in `directory`; raises InputError where there is none."""
    frontier = read_record(directory / FRONTIER_FILE, Frontier, "frontier", "make one with `prune2deploy frontier`")
    names = [point.name for point in frontier.points]
    if name not in names:
        raise InputError(f"{directory} has no point {name!r}; it has: {', '.join(names)}")
    if not (directory / name).is_dir():
        raise InputError(f"{directory / name} is gone; make the frontier again")
    return directory / name
