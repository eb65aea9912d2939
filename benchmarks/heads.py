"""Entities, answers and several labels at two speedups by two methods, and what distillation adds to a classifier.

    python benchmarks/heads_data.py --shared ../shared --out WORK_DIR/data
    python benchmarks/heads.py --models WORK_DIR/models --shared ../shared --work WORK_DIR --out benchmarks/results

WORK_DIR/models has what `finetune_heads.py` made: `ner` (a RoBERTa), `qa` (a BERT), `multi-label` (a DistilBERT), all with
all-MiniLM-L6-v2's encoder. WORK_DIR keeps projects and results, so that an interrupted benchmark goes on; `--only ner`
runs a part. Nothing else may run on the machine meanwhile.
"""

import argparse
import json
import re
from pathlib import Path

from main_job import command, project

WORKLOAD = ("--batch", "1", "--seq-len", "128", "--max-length", "128")
HEADS = ("ner", "qa", "multi-label")
JOBS = [
    *((head, speedup, method, 0) for head in HEADS for speedup in (1.5, 2.0) for method in ("ours", "kwon")),
    *(("sst2", speedup, "ours", 3200) for speedup in (3.0, 5.0)),
]  # (head, speedup, method, steps of distillation)
COLUMNS = ("model", "class", "method", "asked", "dense ms", "pruned ms", "speedup", "metric", "dense", "pruned", "lost",
           "± s.e.", "lost before distilling", "steps", "seconds", "of them distilling")  # fmt: skip


def one_run(directory: Path, speedup: float, method: str, steps: int) -> dict:
    """The report of one run, kept in a file."""
    name = f"{method}-{speedup:g}{f'-distilled-{steps}' if steps else ''}"
    kept = directory / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    options = ["--recover", "distil"] if steps else []
    if steps:
        file = directory / "prune2deploy.toml"
        file.write_text(re.sub(r"(?m)^steps = .*$", f"steps = {steps}", file.read_text()))
    report = command(directory, "run", "--speedup", f"{speedup:g}", "--method", method, "--name", name, "--force", *options)
    if "error" not in report:
        kept.write_text(json.dumps(report))
    return report


def row(head: str, kind: str, speedup: float, method: str, steps: int, report: dict) -> tuple:
    if "error" in report:
        return head, kind, method, f"{speedup:g}", *["-"] * 10, report["error"]["message"], ""
    stages = {stage["stage"]: stage for stage in report["stages"]}
    before = [stage for stage in report["stages"] if stage["kept"] and stage["stage"] != "distillation"][-1]
    dense, pruned, lost = report["metric_dense"], report["metric_pruned"], report["lost"]
    trained = stages.get("distillation")
    return (
        head, kind, method, f"{speedup:g}", f"{report['latency_dense']['ms']:.2f}", f"{report['latency_pruned']['ms']:.2f}",
        f"{report['speedup']:.2f}", dense["metric"], f"{dense['value']:.2f}", f"{pruned['value']:.2f}",
        f"{lost['points']:.2f}", f"{lost['standard_error']:.2f}",
        f"{dense['value'] - before['score']:.2f}" if trained else "", str(steps or ""),
        f"{sum(report['seconds'].values()):.0f}", f"{trained['seconds']:.0f}" if trained else "",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=(*HEADS, "sst2"))
    options = parser.parse_args()
    sources = {head: (options.models / head, options.work / "data" / head) for head in HEADS}
    sources["sst2"] = (options.shared / "models" / "minilm-sst2", options.shared / "data" / "sst2")
    found = []
    for head, speedup, method, steps in JOBS:
        if options.only not in (None, head):
            continue
        model, data = (each.resolve() for each in sources[head])
        project(options.work.resolve() / head, model, data, *WORKLOAD)
        kind = json.loads((model / "config.json").read_text())["architectures"][0]
        report = one_run(options.work.resolve() / head, speedup, method, steps)
        found.append({
            "model": head, "class": kind, "speedup_asked": speedup, "method": method, "steps": steps, "report": report,
        })  # fmt: skip
        print(row(head, kind, speedup, method, steps, report), flush=True)
    if options.only:
        return
    names = ("model", "class", "speedup_asked", "method", "steps", "report")
    rows = [row(*(each[name] for name in names)) for each in found]
    device = next(each["report"]["device"] for each in found if "device" in each["report"])
    title = f"# Heads ({device['name']}, {device['cores']} cores)"
    lines = [title, "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(map(str, cells))} |" for cells in rows]
    (options.out / "heads.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (options.out / "heads.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
