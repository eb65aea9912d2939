"""`comparison.json`: what people use instead, beside ours, from one interleaved run."""

from pydantic import Field

from prune2deploy.config import WorkloadPoint
from prune2deploy.files import Record
from prune2deploy.runtimes.base import DeviceInfo

COLUMNS = ("model", "how", "ms", "of dense fp32", "metric", "lost", "± s.e.", "MB")


class Row(Record):
    """One model in one form; `failed`: why it could not be built, and nothing else is said then."""

    model: str
    how: str
    failed: str | None = None
    ms: float | None = None
    ratio: float | None = Field(None, description="of the latency of the dense model in fp32, the first row")
    score: float | None = None
    lost: float | None = Field(None, description="points of the metric against the first row")
    lost_standard_error: float | None = None
    megabytes: float | None = None
    ours: bool = False


class Comparison(Record):
    """All rows; the first is the dense model in fp32."""

    schema_version: int = Field(1, ge=1, le=1)
    created_at: str
    source: str
    metric: str
    n: int
    device: DeviceInfo
    threads: int
    workload: list[WorkloadPoint]
    rows: list[Row]
    versions: dict[str, str]

    def table(self) -> list[str]:
        """The rows in Markdown."""
        lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
        return lines + [f"| {' | '.join(cells_of(row))} |" for row in self.rows]


def cells_of(row: Row) -> tuple[str, ...]:
    """`row` as text."""
    how = f"**{row.how}**" if row.ours else row.how
    if row.failed is not None:
        return row.model, how, row.failed, *[""] * 5
    numbers = (row.ms, row.ratio, row.score, row.lost, row.lost_standard_error)
    return row.model, how, *("" if number is None else f"{number:.2f}" for number in numbers), f"{row.megabytes or 0:.1f}"
