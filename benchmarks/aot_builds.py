"""TensorRT plans of real models, built ahead of time on a machine without a GPU: what builds, in what time, how large.

    python ../shared/gpu/tensorrt_builder.py BUILDER
    PYTHONPATH=.:BUILDER python benchmarks/aot_builds.py --shared ../shared --work WORK --out benchmarks/results

Nothing runs a plan here: that they compute what they should is for a machine with a GPU.
"""

import argparse
import json
import time
from pathlib import Path
from unittest import mock

from on_gpu import save_random_bert
from transformers import BertConfig, ViTImageProcessor

from prune2deploy.config import Project, Target
from prune2deploy.files import pretty_json, write_text
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import shrunk
from prune2deploy.runtimes import trt
from prune2deploy.runtimes.base import Shapes
from prune2deploy.runtimes.registry import runtime_for
from prune2deploy.tasks.base import Task
from prune2deploy.tasks.registry import task_of

TEXT = [{"batch": 1, "seq_len": 128}, {"batch": 32, "seq_len": 128}]
IMAGES = [{"batch": 1}, {"batch": 32}]
RAGGED = {"attention": (5, 7, 0, 12, 3, 1), "ffn": (1536, 700, 768, 0, 64, 1000)}


def deit(shared: Path, work: Path) -> Path:
    """The shared model with a processor beside it, which it lacks."""
    directory = work / "deit-tiny"
    directory.mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        (directory / file).write_bytes((shared / "models" / "deit-tiny" / file).read_bytes())
    ViTImageProcessor().save_pretrained(directory)
    return directory


def graph_of(directory: Path, task: str, widths: dict | None, work: Path) -> tuple[Path, Project, Task]:
    """The model of `directory` with these widths as ONNX, and what it is for."""
    points = IMAGES if task.startswith("image") else TEXT
    project = Project(model=str(directory), task=task, data={"path": "none"}, workload=points, root=work)
    model = load_dense(directory)
    kind = task_of(project, directory, model.config)
    if widths is not None:
        kept = {block: range(widths[block.kind][block.layer]) for block in blocks_of(model)}
        model = shrunk(model, Plan.of(signature_of(model.config), kept))
    path = work / f"{directory.name}{'-ragged' if widths else ''}.onnx"
    export_onnx(model, kind, path)
    return path, project, kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    save_random_bert(options.work / "bert-base", BertConfig(num_labels=2))
    text, images = "text-classification", "image-classification"
    cases = {
        "BERT-base shape, dense": (options.work / "bert-base", text, None),
        "MiniLM-L6, ragged, two blocks vanished": (options.shared / "models" / "minilm-sst2", text, RAGGED),
        "DeiT-tiny, dense": (deit(options.shared, options.work), images, None),
    }
    rows, version = [], ""
    with mock.patch.object(trt, "_gpu", return_value="none"):
        for name, (directory, task, widths) in cases.items():
            graph, project, kind = graph_of(directory, task, widths, options.work)
            for precision in ("fp32", "fp16", "bf16"):
                target = Target(device="gpu", runtime="tensorrt", precision=precision)
                cache = options.work / f"cache-{time.time_ns()}"
                runtime = runtime_for(target, Shapes(project.workload, kind.axis_limits()), cache)
                start = time.monotonic()
                runtime.compile(graph, options.work / "model.plan")
                seconds = time.monotonic() - start
                version = runtime.describe().version
                rows.append({"model": name, "precision": precision, "seconds": round(seconds, 1),
                             "onnx_mb": round(graph.stat().st_size / 1e6, 1),
                             "plan_mb": round((options.work / "model.plan").stat().st_size / 1e6, 1)})  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
    lines = ["| model | precision | graph, MB | plan, MB | seconds to build |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(str(row[key]) for key in ("model", "precision", "onnx_mb", "plan_mb", "seconds")) + " |"
              for row in rows]  # fmt: skip
    said = {"tensorrt": version, "workload": {"texts": TEXT, "images": IMAGES}, "rows": rows}
    write_text(options.out / "aot_builds.json", pretty_json(said) + "\n")
    write_text(options.out / "aot_builds.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
