"""What the exported graph's form and the session's threads cost: the figures of docs/measuring.md.

    python benchmarks/graph_choices.py --model MODEL_DIR --data DATA --out benchmarks/results

Dense, and with half the heads and filters: as exported, with inferred shapes in the file, and fused; then the dense
model under other thread settings. Everything interleaved with the dense model as exported.
"""

import argparse
import json
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort

from prune2deploy.config import Target
from prune2deploy.graphs.fuse import fuse
from prune2deploy.graphs.onnx_model import export_onnx
from prune2deploy.initialise import init
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.models.family import blocks_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of
from prune2deploy.models.surgery import shrunk
from prune2deploy.progress import Progress
from prune2deploy.runtimes.measure import interleaved
from prune2deploy.runtimes.ort import OnnxRuntime, OrtEngine
from prune2deploy.tasks.registry import task_of

ROUNDS = 60
THREADS = {"2 threads": (2, "0"), "2 threads spinning": (2, "1"), "1 thread": (1, "0")}


def with_shapes(source: Path, target: Path) -> Path:
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(source)), target)
    return target


def session(path: Path, threads: int, spinning: str) -> OrtEngine:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    return OrtEngine(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        project = init(str(options.model.resolve()), str(options.data.resolve()), work).project
        directory = Path(project.model)
        model = load_dense(directory)
        task = task_of(project, directory, model.config)
        kept = {block: range(block.units // 2) for block in blocks_of(model)}
        half = shrunk(model, Plan.of(signature_of(model.config), kept))
        runtime, engines = OnnxRuntime(Target()), {}
        for name, each in (("dense", model), ("half", half)):
            plain = work / f"{name}.onnx"
            export_onnx(each, task, plain)
            engines[name] = runtime.build(plain)
            engines[f"{name}, shapes in the file"] = runtime.build(with_shapes(plain, work / f"{name}-shapes.onnx"))
            if fuse(plain, work / f"{name}-fused.onnx"):
                engines[f"{name}, fused"] = runtime.build(work / f"{name}-fused.onnx")
        inputs = task.timing_inputs(1, 128)
        forms = interleaved({name: engine.timed(inputs) for name, engine in engines.items()}, "dense", ROUNDS,
                            Progress(), "graphs")  # fmt: skip
        engines.clear()
        sessions = {name: session(work / "dense.onnx", *setting) for name, setting in THREADS.items()}
        alone = {}
        for name, engine in sessions.items():  # one at a time: sessions that spin disturb each other
            alone[name] = interleaved({name: engine.timed(inputs)}, name, ROUNDS, Progress(), name)[name]
    rows = {name: {"ms": t.median_ms, "ratio": t.ratio, "spread": t.spread or t.own_spread} for name, t in forms.items()}
    rows |= {f"dense, {name}, alone": {"ms": t.median_ms, "spread": t.own_spread} for name, t in alone.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "graph_choices.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| graph | ms | to dense | spread |", "|---|---|---|---|"]
    for name, r in rows.items():
        lines.append(f"| {name} | {r['ms']:.2f} | {r.get('ratio', float('nan')):.3f} | {100 * r['spread']:.1f} % |")
    (options.out / "graph_choices.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
