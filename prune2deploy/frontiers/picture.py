"""The picture of a frontier: the task metric over measured latency."""

from pathlib import Path

from prune2deploy.frontiers.record import Frontier
from prune2deploy.validation.figures import DENSE, GHOST, PRUNED, WIDTH, styled


def draw(frontier: Frontier, path: Path) -> None:
    """Write the picture, SVG, to `path`; the same frontier gives the same file."""
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        points = frontier.points
        milliseconds, scores = [point.measured_ms for point in points], [point.score for point in points]
        axes.errorbar(
            milliseconds, scores, yerr=[point.standard_error for point in points], color=PRUNED, marker="o", capsize=3,
            linewidth=1.2,
        )  # fmt: skip
        for point in points:
            axes.annotate(
                point.name, (point.measured_ms, point.score), textcoords="offset points", xytext=(5, -11), fontsize=8
            )
        axes.plot([points[0].dense_ms], [frontier.dense_score], "s", color=DENSE)
        axes.axhline(frontier.dense_score, color=DENSE, linestyle=":", linewidth=1)
        axes.annotate(
            "dense", (points[0].dense_ms, frontier.dense_score), textcoords="offset points", xytext=(0, -12),
            ha="right", fontsize=8,
        )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel("measured milliseconds")
        axes.set_ylabel(f"{points[0].metric}, points")
        axes.grid(color=GHOST)
        axes.set_axisbelow(True)
        figure.savefig(path, format="svg", metadata={"Date": None})
