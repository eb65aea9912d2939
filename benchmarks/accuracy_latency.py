"""Accuracy over measured latency: every method on one model, data, table, engine and list of seeds, in one process.

    python benchmarks/accuracy_latency.py PROJECT --name minilm-sst2 --work WORK --out benchmarks/results

PROJECT is a directory with a prune2deploy.toml and, after `prune2deploy profile`, its latency table. WORK keeps what was
measured, so that an interrupted benchmark goes on. Nothing else may run on the machine meanwhile.
"""

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import psutil

from prune2deploy.budget import Budget
from prune2deploy.config import Project, load_project
from prune2deploy.console import RichProgress
from prune2deploy.errors import Prune2DeployError, UnstableMeasurementError
from prune2deploy.pruning.workbench import Pruned, Workbench

METHODS = ("magnitude", "kwon", "ziplm", "k-prune", "optin", "ours")
SHARES = (0.7, 0.6, 0.5, 0.4, 0.3, 0.25)  # of the dense latency
SEEDS = (0, 1, 2)
DISTURBED = 3  # times that a cell is tried again


def resident_gib() -> float:
    """The resident set of this process, GiB."""
    return psutil.Process().memory_info().rss / 2**30


class PeakMemory:
    """The largest resident set while open, GiB, looked at every 20 ms."""

    def __enter__(self) -> "PeakMemory":
        self.peak, self.over = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, resident_gib())

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.thread.join()


def cell(workbench: Workbench, share: float) -> dict:
    """One method, seed and budget: what was measured, and the accuracy after every step."""
    start = time.monotonic()
    pruned: Pruned = workbench.prune_to(Budget(kind="speedup", value=1 / share))
    kept = [result for result in pruned.results if result.kept]
    return {
        "share": share, "measured_ms": pruned.candidate.measured_ms, "dense_ms": pruned.candidate.dense_ms,
        "measured_share": pruned.candidate.measured_ms / pruned.candidate.dense_ms,
        "score": kept[-1].score, "dense_score": pruned.results[0].score, "standard_error": kept[-1].standard_error,
        "divergence": kept[-1].divergence, "seconds": time.monotonic() - start, "n": kept[-1].n,
        "step_seconds": sum(result.seconds for result in pruned.results[1:]),
        "widths": list(pruned.state.plan.widths(workbench.method.calibration.blocks).values()),
        "stages": [result.model_dump(mode="json") for result in pruned.results],
    }  # fmt: skip


def when_quiet(work: Callable[[], dict]) -> dict:
    """What `work` gives, tried again a minute later while something else disturbs the machine."""
    for _ in range(DISTURBED):
        try:
            return work()
        except UnstableMeasurementError as error:
            print(error, file=sys.stderr)
            time.sleep(60)
    return work()


def measure(project: Project, method: str, seed: int, shares: list[float], work: Path) -> None:
    """Measure the cells of one method and seed that are not in `work` yet."""
    files = {share: work / f"{method}-{seed}-{share:g}.json" for share in shares}
    missing = [share for share, file in files.items() if not file.exists()]
    if missing:
        seeded = project.model_copy(update={"calibration": project.calibration.model_copy(update={"seed": seed})})
        with PeakMemory() as memory:
            workbench = Workbench(seeded, method, progress=RichProgress())
            shutil.rmtree(workbench.state)  # statistics of an earlier run: taking them is part of what is timed
            workbench.state.mkdir()
            workbench.bench  # noqa: B018 (the dense engine is built before anything is timed)
            workbench.method  # noqa: B018
            for share in missing:
                try:
                    found = when_quiet(lambda share=share: cell(workbench, share))
                except Prune2DeployError as error:
                    found = {"share": share, "error": str(error)}
                found |= {
                    "method": method, "seed": seed, "calibration_seconds": workbench.calibration_seconds,
                    "peak_gib": memory.peak,
                }  # fmt: skip
                files[share].write_text(json.dumps(found))
                print(method, seed, share, {k: found.get(k) for k in ("measured_share", "score", "divergence", "error")},
                      file=sys.stderr)  # fmt: skip


def measured(methods: Sequence[str], seeds: Sequence[int], shares: Sequence[float], work: Path) -> list[dict]:
    """The cells that `work` holds."""
    files = [work / f"{method}-{seed}-{share:g}.json" for seed in seeds for method in methods for share in shares]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def table(cells: list[dict], methods: list[str], shares: list[float]) -> list[str]:
    """Mean accuracy over seeds ± its standard error over seeds, and the measured share of the dense latency."""
    lines = ["| method | " + " | ".join(f"{share:g}" for share in shares) + " | seeds | pruning, s | peak, GiB |",
             "|---|" + "---|" * (len(shares) + 3)]  # fmt: skip
    for method in methods:
        row = []
        for share in shares:
            good = [c for c in cells if (c["method"], c["share"]) == (method, share) and "error" not in c]
            if not good:
                row.append("not met" if any(c["method"] == method and c["share"] == share for c in cells) else "not run")
                continue
            scores = np.asarray([c["score"] for c in good])
            spread = f" ± {scores.std(ddof=1) / np.sqrt(len(scores)):.2f}" if len(scores) > 1 else ""
            row.append(f"{scores.mean():.2f}{spread} ({np.mean([c['measured_share'] for c in good]):.3f})")
        own = [c for c in cells if c["method"] == method and "error" not in c]
        seconds = np.mean([c["calibration_seconds"] + c["step_seconds"] for c in own]) if own else float("nan")
        peak = max((c["peak_gib"] for c in own), default=float("nan"))
        row += [str(len({c["seed"] for c in own})), f"{seconds:.0f}", f"{peak:.2f}"]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    return lines


def picture(cells: list[dict], methods: list[str], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for method in methods:
        good = [c for c in cells if c["method"] == method and "error" not in c]
        shares = sorted({c["share"] for c in good})
        x = [np.mean([c["measured_share"] for c in good if c["share"] == share]) for share in shares]
        y = [np.mean([c["score"] for c in good if c["share"] == share]) for share in shares]
        axes.plot(x, y, "o-", label=method, linewidth=2.5 if method == "ours" else 1.2)
    if cells and (dense := next((c["dense_score"] for c in cells if "error" not in c), None)) is not None:
        axes.axhline(dense, color="0.5", linestyle=":", label="dense")
    axes.set_xlabel("measured latency, share of dense")
    axes.set_ylabel("task metric, points")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def project_parser(description: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """What every benchmark of one project is told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    return parser


def read_options(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Project]:
    """The options, with their folders made, and the project."""
    options = parser.parse_args()
    for folder in (options.work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    return options, load_project(options.project / "prune2deploy.toml")


def main() -> None:
    parser = project_parser(__doc__, SEEDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--as-it-is", action="store_true", help="Measure nothing: show what WORK holds.")
    options, project = read_options(parser)
    if not options.as_it_is:
        for seed in options.seeds:
            for method in options.methods:
                measure(project, method, seed, options.shares, options.work)
    cells = measured(options.methods, options.seeds, options.shares, options.work)
    (options.out / f"accuracy_latency-{options.name}.json").write_text(json.dumps(cells, indent=1) + "\n")
    lines = table(cells, options.methods, options.shares)
    (options.out / f"accuracy_latency-{options.name}.md").write_text("\n".join(lines) + "\n")
    picture(cells, options.methods, options.out / f"accuracy_latency-{options.name}.svg")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
