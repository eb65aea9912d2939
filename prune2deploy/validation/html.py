"""`report.html`: the report as one page that needs no other file and no network."""

from pathlib import Path

from prune2deploy.config import WorkloadPoint
from prune2deploy.models.table import padding_note
from prune2deploy.validation.numbers import duration, megabytes, number, percent
from prune2deploy.validation.record import Report

TEMPLATE = "report.html.j2"


def render(report: Report) -> str:
    """The page of `report`; the same report gives the same page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from prune2deploy.validation.figures import figures_of

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "percent": percent, "duration": duration, "megabytes": megabytes}
    return environment.get_template(TEMPLATE).render(
        report=report,
        used=None if report.limit_ms is None else report.latency_pruned.ms / report.limit_ms,
        rounds=rounds(report),
        padding=padding_note(report.table_points) if report.table_points else None,
        vanished=sum(width == 0 for width in report.widths.values()),
        blocks=len(report.widths),
        # safe as they are: matplotlib escapes what it writes
        figures={name: Markup(svg) for name, svg in figures_of(report).items()},
    )


def rounds(report: Report) -> list[dict[str, float | None]]:
    """The rounds of the closed loop; predictions in the milliseconds of the round's own measurement."""
    table_ms = _table_dense_ms(report)
    rows = []
    for fitted in report.fitted:
        predicted = None if table_ms is None else fitted.predicted_ms * fitted.dense_ms / table_ms
        limit = report.budget.limit_ms(fitted.dense_ms) if report.budget.timed else None
        rows.append({
            "in_table_ms": fitted.predicted_ms,
            "predicted_ms": predicted,
            "measured_ms": fitted.measured_ms,
            "dense_ms": fitted.dense_ms,
            "error": None if predicted is None else predicted / fitted.measured_ms - 1,
            "used": None if limit is None else fitted.measured_ms / limit,
        })
    return rows


def _table_dense_ms(report: Report) -> float | None:
    """What the table measured for the dense model over this workload; None where it lacks one of the points."""

    def measured(point: WorkloadPoint) -> float | None:
        return next((entry.dense_ms for entry in report.table_points if entry.point.same_shape(point)), None)

    points = [entry.point for entry in report.latency_dense.points]
    parts = [(point.weight, ms) for point in points if (ms := measured(point)) is not None]
    if not parts or len(parts) < len(points):
        return None
    return sum(weight * ms for weight, ms in parts) / sum(weight for weight, _ in parts)
