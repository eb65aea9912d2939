"""Widths and precisions: chosen together, one after the other, and each alone, at four measured budgets and two seeds.

    python benchmarks/precision.py --shared ../shared --work WORK_DIR --out benchmarks/results

Of MiniLM on SST-2 and of the example model. `int8 alone` and `widths, then int8` are ONNX Runtime's own dynamic int8 of the
dense model and of models that `ours` pruned in fp32, measured by `compare`; the others come from `frontier`. WORK_DIR keeps
what was done, so that an interrupted benchmark goes on; `--only minilm` runs a part. Nothing else may run on the machine
meanwhile.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from main_job import command, project

ROOT = Path(__file__).parent.parent
SPEEDUPS = (2.0, 2.63, 3.33, 4.0)  # 0.5, 0.38, 0.3 and 0.25 of the dense latency
BEFORE_INT8 = (1.15, 1.4, 1.75, 2.1)  # in fp32, so that int8 on top of it comes to about those
SEEDS = (0, 1)
VARIANTS = {  # method, precision
    "widths in fp32": ("ours", "fp32"),
    "joint": ("ours", "auto"),
    "joint, priced as HAWQ-V2": ("hawq", "auto"),
    "k-prune, then int8": ("k-prune", "int8-dynamic"),
}
COLUMNS = ("model", "seed", "variant", "asked", "dense ms", "ms", "of dense", "metric", "lost", "± s.e.")


def begun(directory: Path, model: Path, data: Path, seed: int, *options: str) -> None:
    """A project with this seed."""
    project(directory, model, data, *options)
    file = directory / "prune2deploy.toml"
    file.write_text(re.sub(r"(?m)^seed = .*$", f"seed = {seed}", file.read_text()))


def profiled(directory: Path, precision: str, tables: Path) -> None:
    """The latency table in this precision: measured once for all seeds."""
    if not list(tables.rglob(f"*.{precision}.json")):
        command(directory, "profile", "--precision", precision)
        shutil.copytree(directory / "profiles", tables, dirs_exist_ok=True)
    shutil.copytree(tables, directory / "profiles", dirs_exist_ok=True)


def frontier(directory: Path, name: str, method: str, precision: str, speedups: tuple[float, ...]) -> dict:
    """What `frontier` says of these speedups, kept in a file."""
    out = directory / re.sub(r"\W+", "-", name)
    if not (out / "frontier.json").exists():
        asked = [part for speedup in speedups for part in ("--speedup", f"{speedup:g}")]
        command(directory, "frontier", *asked, "--out", out.name, "--method", method, "--precision", precision)
    return json.loads((out / "frontier.json").read_text())


def compared(directory: Path, pruned: list[Path], name: str) -> dict:
    """What `compare` says of the dense model and of these, kept in a file."""
    kept = directory / f"{name}.json"
    if not kept.exists():
        asked = [part for each in pruned for part in ("--pruned", str(each))]
        command(directory, "compare", *asked, "--out", name)
    return json.loads(kept.read_text())


def cells(label: str, seed: int, directory: Path, tables: Path) -> list[tuple]:
    """The rows of one model and seed."""
    found = []
    for name, (method, precision) in VARIANTS.items():
        profiled(directory, precision, tables)
        for point in frontier(directory, name, method, precision, SPEEDUPS)["points"]:
            found.append((label, seed, name, f"{point['budget']['value']:g}×", point["dense_ms"], point["measured_ms"],
                          point["measured_ms"] / point["dense_ms"], point["score"], point["lost"],
                          point["lost_standard_error"]))  # fmt: skip
    frontier(directory, "before int8", "ours", "fp32", BEFORE_INT8)
    before = sorted((directory / "before-int8").glob("*x"))
    rows = compared(directory, before, "comparison")["rows"]
    dense = rows[0]
    for row in rows:
        if row["how"] != "ONNX Runtime dynamic int8" or row.get("failed"):
            continue
        alone = row["model"] == "dense"
        name = "int8 alone" if alone else "widths, then int8"
        found.append((label, seed, name, "" if alone else f"{row['model']} in fp32", dense["ms"], row["ms"], row["ratio"],
                      row["score"], row["lost"], row["lost_standard_error"]))  # fmt: skip
    return found


def shown(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("minilm", "topics"))
    options = parser.parse_args()
    shared, work = options.shared.resolve(), options.work.resolve()
    models = {
        "minilm": (shared / "models" / "minilm-sst2", shared / "data" / "sst2", "--max-length", "128", "--seq-len", "128"),
        "topics": (ROOT / "examples" / "topics" / "model", ROOT / "examples" / "topics" / "data"),
    }
    found: list[tuple] = []
    for label, (model, data, *more) in models.items():
        for seed in SEEDS:
            if options.only in (None, label):
                directory = work / f"{label}-{seed}"
                begun(directory, model, data, seed, "--batch", "1", *more)
                found += cells(label, seed, directory, work / f"{label}-tables")
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(map(shown, row))} |" for row in found]
    print("\n".join(lines))
    if options.only is None:
        from prune2deploy.runtimes.devices import cpu_device

        device = cpu_device()
        title = f"# Widths and precisions ({device.name}, {device.cores} cores: {', '.join(device.instructions)})"
        (options.out / "precision.md").write_text("\n".join([title, "", *lines]) + "\n", encoding="utf-8")
        records = [dict(zip(COLUMNS, row, strict=True)) for row in found]
        (options.out / "precision.json").write_text(json.dumps(records, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
