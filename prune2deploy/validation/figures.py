"""The figures of the HTML report, as SVG elements to put into a page.

To add one: a function that takes the report and returns a figure (None where there is nothing to draw), and its name in
`FIGURES`. Layers and stages run downwards, so that many of them make a figure tall and never too wide for a phone.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from prune2deploy.validation.numbers import number
from prune2deploy.validation.record import PointLatency, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.4  # inches
COLUMNS = 2  # panels side by side
UNITS = {"attention": "heads", "ffn": "filters", "channels": "channels"}  # of other kinds: "units"
COLOURS = {"attention": "#1f6fb4", "ffn": "#b4580b"}
OTHER_COLOUR = "#2f7d4f"
DENSE, PRUNED, LIMIT, GHOST = "#8a8f98", "#1f6fb4", "#b3261e", "#e6e8eb"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "prune2deploy",  # ids are random without it
    "svg.fonttype": "none",  # text stays text: it can be searched, and needs a tenth of the space
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.07,
}


def figures_of(report: Report) -> dict[str, str]:
    """Every figure that `report` has the values for, by name; the same report gives the same text."""
    with styled():
        drawn = {name: draw(report) for name, draw in FIGURES.items()}
        return {name: _svg(figure, name) for name, figure in drawn.items() if figure is not None}


@contextmanager
def styled() -> Iterator[None]:
    """While open, figures have our style, whatever the caller has set."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def widths(report: Report) -> "Figure | None":
    """A row for each layer, with what is left of its units of each kind."""
    kinds = report.signature.kinds
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in report.widths))
    layers = len(names)
    if not layers:
        return None
    figure = _figure(0.9 + layers * (0.24 if layers <= 24 else 0.2))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for kind, axes in zip(kinds, panels, strict=True):
        kept = [key for key in report.widths if report.signature.curves[report.signature.blocks[key]].kind == kind]
        rows = [names.index(key.rpartition(".")[0]) for key in kept]
        _width_bars(
            axes, kind, rows, [report.widths[key] for key in kept], [report.signature.units(key) for key in kept],
            [report.precisions.get(key, "") for key in kept],
        )
    panels[0].set_yticks(range(layers), [f"layer {name}" for name in names])
    panels[0].set_ylim(layers - 0.4, -0.6)
    return figure


def _width_bars(
    axes: "Axes", kind: str, rows: list[int], kept: list[int], dense: list[int], precisions: list[str]
) -> None:
    axes.barh(rows, [1.0] * len(kept), color=GHOST, height=0.72)
    shares = [width / units for width, units in zip(kept, dense, strict=True)]
    axes.barh(rows, shares, color=COLOURS.get(kind, OTHER_COLOUR), height=0.72)
    for row, width, share, precision in zip(rows, kept, shares, precisions, strict=True):
        if width:
            axes.text(1.03, row, f"{width} {precision}".strip(), va="center_baseline")
            if precision:  # a lighter bar, so that what is in less is seen at a glance
                axes.barh(row, share, color="white", alpha=0.45, height=0.72)
            continue
        axes.barh(row, 1.0, height=0.72, color="white", edgecolor=LIMIT, linestyle="--", hatch="////", alpha=0.55)
        axes.text(
            0.5, row, "vanished", va="center_baseline", ha="center", color=LIMIT, weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
        axes.text(1.03, row, "0", va="center_baseline", color=LIMIT, weight="bold")
    of = str(dense[0]) if len(set(dense)) == 1 else f"{min(dense)} to {max(dense)}"
    axes.set_title(f"{_title(kind)}: {UNITS.get(kind, 'units')} kept of {of}")
    axes.set_xlim(0, 1.85 if any(precisions) else 1.22)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_bounds(0, 1)


def latency(report: Report) -> "Figure":
    """Bars of dense and pruned: over the workload with the budget, then at each point where there are several."""
    pairs = list(zip(report.latency_dense.points, report.latency_pruned.points, strict=False))
    several = len(pairs) > 1
    figure = _figure(1.3 + (0.95 * len(pairs) if several else 0.0))
    panels = figure.subplots(1 + (len(pairs) if several else 0), 1, squeeze=False)[:, 0]
    whiskers = [point.p95_ms for point in pairs[0]] if len(pairs) == 1 else []
    title = "whole workload" if several else "".join(str(pair[0].point) for pair in pairs)
    _latency_bars(panels[0], [report.latency_dense.ms, report.latency_pruned.ms], whiskers, title, report.limit_ms)
    for axes, pair in zip(panels[1:], pairs, strict=False):
        _point_bars(axes, *pair)
    panels[-1].set_xlabel("milliseconds")
    return figure


def _point_bars(axes: "Axes", dense: PointLatency, pruned: PointLatency) -> None:
    _latency_bars(axes, [dense.median_ms, pruned.median_ms], [dense.p95_ms, pruned.p95_ms], str(dense.point), None)


def _latency_bars(axes: "Axes", ms: list[float], whiskers: list[float], title: str, limit: float | None) -> None:
    axes.barh([0, 1], ms, color=[DENSE, PRUNED], height=0.68)
    if whiskers:
        reach = [[0.0, 0.0], [max(0.0, high - middle) for middle, high in zip(ms, whiskers, strict=True)]]
        axes.errorbar(ms, [0, 1], xerr=reach, fmt="none", ecolor="#22262b", capsize=3, linewidth=1)
    if limit is not None:
        axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.6)
        label = f"budget {number(limit)} ms"
        axes.text(limit, 1.03, label, transform=axes.get_xaxis_transform(), color=LIMIT, ha="center", va="bottom")
    # the values stand in the tick labels, where neither a bar nor the budget's line can run into them
    axes.set_yticks([0, 1], [f"dense {number(ms[0])} ms", f"pruned {number(ms[1])} ms"])
    axes.set_ylim(1.5, -0.5)
    axes.set_xlim(0, 1.04 * max([*ms, *whiskers, limit or 0.0]))
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, pad=18 if limit is not None else 6)


def table(report: Report) -> "Figure | None":
    """The latency table: at each workload point, two panels in a row, one for each curve."""
    points, signature = report.table_points, report.signature
    if not points:
        return None
    panels = [(point, curve) for point in points for curve in signature.curves]
    figure = _figure(0.3 + 2.0 * -(-len(panels) // COLUMNS))
    grid = figure.subplots(-(-len(panels) // COLUMNS), COLUMNS, squeeze=False)
    for (point, name), axes in zip(panels, grid.flat, strict=False):
        curve, kind = point.curve(name), signature.curves[name].kind
        axes.errorbar(
            curve.widths, curve.ms, yerr=curve.standard_error_ms, color="#5b6169", linewidth=1.2, marker=".",
            markersize=3, capsize=2, elinewidth=1,
        )  # fmt: skip
        kept = [width for key, width in report.widths.items() if signature.blocks[key] == name]
        chosen, colour = sorted(Counter(kept).items()), COLOURS.get(kind, OTHER_COLOUR)
        axes.scatter(
            [width for width, _ in chosen], [curve.at(width) for width, _ in chosen],
            s=[20 + 160 * count / len(kept) for _, count in chosen],
            facecolor=colour + "55", edgecolor=colour, linewidth=1.2, zorder=3, clip_on=False,
        )  # fmt: skip
        axes.set_title(f"{_title(name)}, {point.point}")
        axes.set_ylim(0, 1.12 * max(curve.ms) or 1.0)
        axes.set_xlabel(f"{UNITS.get(kind, 'units')} kept")
        axes.locator_params(axis="x", integer=True)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("ms of one block")
    return figure


def stages(report: Report) -> "Figure | None":
    """The metric after each stage with its standard error, against the dense model's."""
    rows = report.stages
    if not rows:
        return None
    figure = _figure(1.1 + 0.36 * len(rows))
    axes = figure.subplots()
    dense = report.metric_dense
    axes.axvline(dense.value, color=DENSE, linestyle="--", linewidth=1.4)
    axes.text(
        dense.value, 1.02, f"dense {dense.value:.2f}", transform=axes.get_xaxis_transform(), ha="center", va="bottom"
    )
    kept = [index for index, stage in enumerate(rows) if stage.kept]
    axes.plot([rows[index].score for index in kept], kept, color=PRUNED, linewidth=1, alpha=0.5)
    for index, stage in enumerate(rows):
        axes.errorbar(
            stage.score, index, xerr=stage.standard_error, color=PRUNED, marker="o", capsize=3, linewidth=1.2,
            markerfacecolor=PRUNED if stage.kept else "white",
        )  # fmt: skip
    names = [stage.stage if stage.kept else f"{stage.stage} (not kept)" for stage in rows]
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 26, max_lines=2, placeholder=" …") for name in names])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(textwrap.fill(f"{rows[-1].metric}, points", 60))
    axes.grid(axis="x", color=GHOST)
    axes.set_axisbelow(True)
    return figure


FIGURES = {"widths": widths, "latency": latency, "table": table, "stages": stages}


def _title(name: str) -> str:
    return name.capitalize().replace("Ffn", "FFN")


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _svg(figure: "Figure", name: str) -> str:
    """`figure` as an element of a page: no header, no links, no style that reaches out, ids that no other has."""
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text).strip()
