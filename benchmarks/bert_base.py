"""What pruning a model of BERT-base's shape takes: seconds of each step, and memory.

    python benchmarks/bert_base.py --tokenizer MODEL_DIR --data ../shared/data/sst2 --work WORK --out benchmarks/results

Weights are random, which takes as long as real ones; text and tokenizer (that of MODEL_DIR) are real. Half of the FLOPs are
pruned, so that no latency table is needed. Memory is the resident set, which starts with some 0.5 GiB of libraries.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from accuracy_latency import PeakMemory, resident_gib
from transformers import BertConfig, BertForSequenceClassification

from prune2deploy.budget import Budget
from prune2deploy.console import RichProgress
from prune2deploy.initialise import init
from prune2deploy.models.checkpoint import processor_files
from prune2deploy.pruning.workbench import Workbench


def random_bert(directory: Path) -> None:
    """Write a BERT-base of random weights, unless it is there."""
    if not directory.exists():
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig(num_labels=2)).save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where pruning computes")
    options = parser.parse_args()
    directory = options.work / "bert-base"
    random_bert(directory)
    for file in processor_files(options.tokenizer):
        shutil.copy2(file, directory / file.name)
    project, _ = init(str(directory.resolve()), str(options.data.resolve()), options.work)
    calibration = project.calibration.model_copy(update={"device": options.device})
    project = project.model_copy(update={"calibration": calibration})
    model_gib = (directory / "model.safetensors").stat().st_size / 2**30
    before = resident_gib()
    start = time.monotonic()
    with PeakMemory() as memory:
        workbench = Workbench(project, progress=RichProgress())
        loaded = time.monotonic()
        workbench.method  # noqa: B018 (statistics, timed apart)
        taken, statistics_peak = time.monotonic(), memory.peak
        pruned = workbench.prune_to(Budget(kind="flops", value=0.5))
        done = time.monotonic()
    result = {
        "samples": len(workbench.samples), "model_gib": model_gib, "before_gib": before, "peak_gib": memory.peak,
        "statistics_peak_gib": statistics_peak, "peak_over_model": (memory.peak - before) / model_gib,
        "loading_s": loaded - start, "statistics_s": taken - loaded, "pruning_s": done - taken, "total_s": done - start,
        "steps_s": {stage.stage: stage.seconds for stage in pruned.results[1:]}, "threads": torch.get_num_threads(),
        "device": options.device,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    file = "bert_base" if options.device == "cpu" else "bert_base_gpu"
    (options.out / f"{file}.json").write_text(json.dumps(result, indent=1) + "\n")
    numbers = {name: value for name, value in result.items() if isinstance(value, float)}
    rows = ["| | |", "|---|---|", *(f"| {name} | {value:.2f} |" for name, value in numbers.items())]
    rows += [f"| {name}, s | {seconds:.0f} |" for name, seconds in result["steps_s"].items()]
    (options.out / f"{file}.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
