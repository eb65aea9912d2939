"""The main job on real models: `prune2deploy run` over several budgets, then `validate` in a process of its own.

    python benchmarks/main_job.py --shared ../shared --work WORK_DIR --out benchmarks/results

WORK_DIR keeps the projects, so that an interrupted benchmark goes on; `--only minilm` or `--only deit` runs a part.
Nothing else may run on the machine meanwhile.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

SPEEDUPS = (1.25, 1.5, 2.0, 3.0)
DEIT_SPEEDUP = 1.3
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 224, "width": 224}, "resample": 3,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
COLUMNS = ("model", "method", "budget", "dense ms", "pruned ms", "speedup", "of budget", "again", "dense", "pruned",
           "lost", "prediction error", "table error", "peak GiB", "seconds")  # fmt: skip


def command(directory: Path, *arguments: str) -> dict:
    """What `prune2deploy ... --json` prints, run in `directory`."""
    program = [sys.executable, "-c", "from prune2deploy.cli import main; main()"]
    done = subprocess.run([*program, *arguments, "--json"], cwd=directory, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    if done.returncode not in (0, 1) or "error" in result:
        print(f"{' '.join(arguments)}: {result}", file=sys.stderr)
    return result


def project(directory: Path, model: Path, data: Path, *options: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "prune2deploy.toml").exists():
        command(directory, "init", str(model), "--data", str(data), *options)


def one_run(directory: Path, label: str, speedup: float, method: str) -> dict:
    """A run and an independent measurement of what it exported."""
    name = f"{label}-{method}-{speedup:g}"
    kept = directory / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    start = time.monotonic()
    report = command(directory, "run", "--speedup", f"{speedup:g}", "--method", method, "--name", name)
    seconds = time.monotonic() - start
    result = {"model": label, "method": method, "speedup_asked": speedup, "wall_seconds": seconds, "report": report}
    if "error" not in report:
        result["validate"] = command(directory, "validate", f"model_repository/{name}")
        kept.write_text(json.dumps(result))
    return result


def row(result: dict) -> tuple:
    report, again = result["report"], result.get("validate", {})
    if "error" in report:
        return (result["model"], result["method"], result["speedup_asked"], report["error"], *[""] * (len(COLUMNS) - 4))
    dense, pruned = report["metric_dense"], report["metric_pruned"]
    return (
        result["model"], result["method"], f"{result['speedup_asked']:g}×",
        f"{report['latency_dense']['ms']:.2f}", f"{report['latency_pruned']['ms']:.2f}", f"{report['speedup']:.3f}",
        f"{100 * report['latency_pruned']['ms'] / report['limit_ms']:.1f} %", f"{again.get('speedup', 0):.3f}",
        f"{dense['value']:.2f}", f"{pruned['value']:.2f} ± {pruned['standard_error']:.2f} (n = {pruned['n']})",
        f"{dense['value'] - pruned['value']:.2f}", f"{100 * report['prediction_error']:+.1f} %",
        f"{100 * report['table_error']:.1f} %", f"{report['peak_memory_gb']:.2f}", f"{result['wall_seconds']:.0f}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("minilm", "deit"))
    options = parser.parse_args()
    shared, results = options.shared.resolve(), []
    if options.only != "deit":
        directory = options.work / "minilm"
        project(directory, shared / "models/minilm-sst2", shared / "data/sst2", "--batch", "1", "--seq-len", "128")
        results += [one_run(directory, "minilm-sst2", speedup, "ours") for speedup in SPEEDUPS]
        results.append(one_run(directory, "minilm-sst2", 2.0, "kwon"))
    if options.only != "minilm":
        directory = options.work / "deit"
        model = directory / "deit-tiny"
        if not model.exists():
            model.mkdir(parents=True)
            for file in ("config.json", "model.safetensors"):
                shutil.copyfile(shared / "models/deit-tiny" / file, model / file)
            (model / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        project(directory, model, shared / "data/imagenet-sample")
        results.append(one_run(directory, "deit-tiny", DEIT_SPEEDUP, "ours"))
    write(results, options.out)


def write(results: list[dict], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        result["report"].pop("table_points", None)  # long, and in the table file
        for key in result["report"].keys() & {"source", "data"}:
            result["report"][key] = Path(result["report"][key]).name  # where they lie is this machine's affair
    (out / "main_job.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(cell) for cell in row(result)) + " |" for result in results]
    (out / "main_job.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
