"""What pruning a model of BERT-base's shape takes: seconds of each step, and memory.

    python benchmarks/bert_base.py --tokenizer MODEL_DIR --data ../shared/data/sst2 --work WORK --out benchmarks/results

Weights are random, which takes as long as real ones; text and tokenizer (that of MODEL_DIR) are real. Half of the FLOPs are
pruned, so that no latency table is needed. Memory is the resident set less what it is before, once a model of next to no
size has been pruned: that loads all libraries (0.6 GiB or so).
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
from prune2deploy.config import Project
from prune2deploy.console import RichProgress
from prune2deploy.initialise import init
from prune2deploy.memory import give_back
from prune2deploy.models.checkpoint import processor_files
from prune2deploy.pruning.workbench import Workbench

HALF = Budget(kind="flops", value=0.5)


def random_bert(directory: Path, config: BertConfig, options: argparse.Namespace) -> Project:
    """A project, in `directory`, of a BERT of random weights."""
    model = directory / "model"
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(model)
    for file in processor_files(options.tokenizer):
        shutil.copy2(file, model / file.name)
    project = init(str(model.resolve()), str(options.data.resolve()), directory, force=True).project
    calibration = project.calibration.model_copy(update={"device": options.device})
    return project.model_copy(update={"calibration": calibration})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where pruning computes")
    options = parser.parse_args()
    tiny = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=2)
    Workbench(random_bert(options.work / "tiny", tiny, options)).prune_to(HALF)
    project = random_bert(options.work / "bert-base", BertConfig(num_labels=2), options)
    model_gib = (options.work / "bert-base/model/model.safetensors").stat().st_size / 2**30
    give_back()
    before = resident_gib()
    start = time.monotonic()
    with PeakMemory() as memory:
        workbench = Workbench(project, progress=RichProgress())
        loaded = time.monotonic()
        workbench.method  # noqa: B018 (statistics, timed apart)
        taken, statistics_peak = time.monotonic(), memory.peak
        pruned = workbench.prune_to(HALF)
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
