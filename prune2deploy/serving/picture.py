"""The picture of a server under load: which share of the requests was answered within what time."""

from pathlib import Path

import numpy as np

from prune2deploy.serving.bench import BenchResult
from prune2deploy.validation.figures import GHOST, PRUNED, WIDTH, styled


def draw(result: BenchResult, spans: list[float], path: Path) -> None:
    """Write the picture, SVG, to `path`; `spans`: milliseconds of each request."""
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(np.sort(spans), 100 * np.arange(1, len(spans) + 1) / len(spans), color=PRUNED, linewidth=1.4)
        for name, value in (("p50", result.p50_ms), ("p95", result.p95_ms)):
            if value is not None:
                axes.axvline(value, color=GHOST, linewidth=1)
                axes.annotate(f"{name} {value:.1f} ms", (value, 4), textcoords="offset points", xytext=(4, 0), fontsize=8)
        load = f"{result.rate:g} requests/s" if result.rate is not None else f"{result.concurrency} clients"
        axes.set_title(f"{result.model}, {load}: {result.samples_per_second:.0f} samples/s", fontsize=10)
        axes.set_xlabel("milliseconds")
        axes.set_ylabel("% of requests")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 100)
        figure.savefig(path, format="svg", metadata={"Date": None})
