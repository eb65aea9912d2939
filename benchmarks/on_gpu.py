"""On an NVIDIA GPU: dense against pruned engines in one interleaved run, and latency tables with their prediction error.

    python benchmarks/on_gpu.py --work WORK --out benchmarks/results --profile

Weights are random, which takes as long as real ones, and inputs are synthetic: neither data nor a hub is needed. Each
runtime and model is measured on its own; what fails is written down with its reason, and the rest goes on.
"""

import argparse
import json
import shutil
import time
import traceback
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from prune2deploy.config import Project, project_from
from prune2deploy.console import RichProgress
from prune2deploy.errors import Prune2DeployError
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import shrunk
from prune2deploy.profiling.stage import profile
from prune2deploy.runtimes.base import Shapes
from prune2deploy.runtimes.nvml import GpuWatch
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.runtimes.workload import DENSE, time_workload
from prune2deploy.tasks.registry import task_of

MODELS = {
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {},
}
POINTS = [{"batch": 1, "seq_len": 128}, {"batch": 32, "seq_len": 128}]
VARIANTS = {
    "onnxruntime": {"runtime": "onnxruntime"},
    "onnxruntime, CUDA graphs": {"runtime": "onnxruntime", "cuda_graphs": True},
    "tensorrt": {"runtime": "tensorrt"},
}


def save_random_bert(directory: Path, config: BertConfig) -> None:
    """A model of random weights, with a tokenizer that knows no word: inputs are made without it."""
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(directory)
    words = models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="[PAD]", unk_token="[UNK]", model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(directory)  # fmt: skip


def project_of(name: str, variant: str, precision: str, work: Path) -> Project:
    """A project whose model has random weights; its data is never read."""
    directory = work / name
    if not directory.exists():
        save_random_bert(directory, BertConfig(num_labels=2, **MODELS[name]))
    values = {
        "model": str(directory), "task": "text-classification", "data": {"path": "none", "columns": {"text": "text"}},
        "workload": POINTS, "target": {"device": "gpu", "precision": precision, **VARIANTS[variant]},
    }  # fmt: skip
    return project_from(values, work, "the benchmark")


def pruned_plan(model: torch.nn.Module, share: float, ragged: bool) -> Plan:
    """Every block at `share` of its width; `ragged`: alternately more and less, and two blocks gone."""
    blocks = blocks_of(model)
    kept = {}
    for index, block in enumerate(blocks):
        width = share * (1.4 if index % 2 else 0.6) if ragged else share
        step = 64 if block.kind == "ffn" else 1
        kept[block] = range(0 if ragged and index in (4, 9) else max(step, round(width * block.units / step) * step))
    return Plan.of(signature_of(model.config), kept)


PLANS = {
    "half": lambda model: pruned_plan(model, 0.5, ragged=False),
    "third": lambda model: pruned_plan(model, 1 / 3, ragged=False),
    "ragged half, two blocks gone": lambda model: pruned_plan(model, 0.5, ragged=True),
}


def graphs_of(project: Project) -> dict[str, Path]:
    """ONNX files of the dense model and the pruned ones; what takes long, and is the same for every runtime."""
    directory = Path(project.model)
    model = load_dense(directory)
    task = task_of(project, directory, model.config)
    files = {name: directory / f"{index}.onnx" for index, name in enumerate((DENSE, *PLANS))}
    for name, file in files.items():
        if not file.exists():
            export_onnx(shrunk(model, PLANS[name](model)) if name in PLANS else model, task, file)
    return files


def ratios(project: Project, graphs: dict[str, Path]) -> dict:
    """Milliseconds of dense and pruned engines at each workload point."""
    directory = Path(project.model)
    task = task_of(project, directory, load_dense(directory).config)
    runtime = runtime_for(project.target, Shapes(project.workload, task.axis_limits()), project.state)
    engines, build_s = {}, {}
    for name, file in graphs.items():
        start = time.monotonic()
        engines[name] = runtime.build(file)
        build_s[name] = time.monotonic() - start
    workload = [(point, task.timing_inputs(point.batch, point.seq_len)) for point in project.workload]
    with GpuWatch() as watch:
        timings = time_workload(engines, workload, RichProgress(), "timing")
    rows = {
        name: [{"point": str(point), "ms": each.median_ms, "ratio": each.ratio, "spread": each.spread or each.own_spread}
               for (point, _), each in zip(workload, timing.points, strict=True)]
        for name, timing in timings.items()
    }  # fmt: skip
    return {
        "device": runtime.device().model_dump(), "runtime": runtime.describe().model_dump(), "engines": rows,
        "build_s": build_s, "gpu": [state.model_dump() for state in watch.some(5)],
    }  # fmt: skip


def as_markdown(found: list[dict]) -> str:
    """A table of what was measured, with what failed below it."""
    rows = ["| model | runtime | precision | workload | engine | ms | speedup |", "|---|---|---|---|---|---|---|"]
    notes = []
    for entry in found:
        where = f"{entry['model']} | {entry['variant']} | {entry['precision']}"
        for name, points in entry.get("ratios", {}).get("engines", {}).items():
            rows += [f"| {where} | {at['point']} | {name} | {at['ms']:.3f} | {1 / at['ratio']:.2f}× |" for at in points]
        if "table" in entry:
            told = f"`{entry['table']}` in {entry['table_s']:.0f} s, median error {100 * entry['median_error']:.1f} %"
            notes.append(f"- {where.replace(' | ', ', ')}: {told}")
        if "failed" in entry:
            notes.append(f"- {where.replace(' | ', ', ')}: failed: {entry['failed'].splitlines()[-1]}")
    return "\n".join([*rows, "", *notes]) + "\n"


def measured(name: str, variant: str, options: argparse.Namespace) -> dict:
    """What one model in one runtime says, or why it says nothing."""
    entry: dict = {"model": name, "precision": options.precision, "variant": variant}
    try:
        project = project_of(name, variant, options.precision, options.work.resolve())
        entry |= {"ratios": ratios(project, graphs_of(project))}
        if options.profile:
            single = project.model_copy(update={"workload": project.workload[:1]})
            table, path = profile(single, RichProgress())
            entry |= {"table": path.name, "table_s": table.seconds, "median_error": table.median_error}
            shutil.copy(path, options.out / path.name)
    except Prune2DeployError as error:
        entry["failed"] = str(error)
    except Exception:  # one runtime that breaks says nothing about the next
        entry["failed"] = traceback.format_exc()
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--profile", action="store_true", help="measure latency tables, too")
    options = parser.parse_args()
    for folder in (options.work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in options.models:
        for variant in options.variants:
            found.append(measured(name, variant, options))
            (options.out / "on_gpu.json").write_text(json.dumps(found, indent=1) + "\n")
            (options.out / "on_gpu.md").write_text(as_markdown(found))
            print(json.dumps(found[-1]), flush=True)


if __name__ == "__main__":
    main()
