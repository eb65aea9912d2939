"""The embedder of embeddings.py beside what sentence-transformers itself offers on a CPU: its dynamic int8 ONNX export.

    python benchmarks/embeddings_int8.py MODEL --work WORK_DIR --out benchmarks/results

WORK_DIR is that of embeddings.py, with its packages; the library is the one that `make test` installs
(tests/sentence_library.py). All graphs are timed in one process and in turn, on one text of 128 tokens in 2 threads; the
vectors of the library's models are made by the library, and all are scored alike. Nothing else may run meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import sentence_library  # noqa: E402

LENGTH, THREADS, ROUNDS, CALLS = 128, 2, 60, 5
PRESETS = ("avx2", "avx512_vnni")
QUANTISE = """
import json, sys
from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model
out, presets = sys.argv[2], json.loads(sys.argv[3])
model = SentenceTransformer(sys.argv[1], backend="onnx", model_kwargs={"export": True}, local_files_only=True)
model.save_pretrained(out)
for preset in presets:
    export_dynamic_quantized_onnx_model(model, preset, out)
"""
ENCODE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], backend="onnx", model_kwargs={"file_name": sys.argv[2]}, local_files_only=True)
print(json.dumps(model.encode(json.load(sys.stdin)).tolist()))
"""
COLUMNS = ("model", "ms", "speedup", "nDCG@10", "lost", "± s.e.", "MB")


def library(program: str, *arguments: str, given: object = None) -> object:
    """What `program` prints, run where the library is."""
    done = subprocess.run(
        [sentence_library.python_of(sentence_library.HOME), "-c", program, *arguments], input=json.dumps(given),
        stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return json.loads(done.stdout) if done.stdout else None


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def medians(graphs: dict[str, Path]) -> dict[str, float]:
    """Milliseconds of each of `graphs`, by name, measured in turn."""
    rng = np.random.default_rng(0)
    every = {"input_ids": rng.integers(1000, 20000, (1, LENGTH)), "attention_mask": np.ones((1, LENGTH), dtype=np.int64),
             "token_type_ids": np.zeros((1, LENGTH), dtype=np.int64)}  # fmt: skip
    sessions = {name: session(path) for name, path in graphs.items()}
    inputs = {name: {each.name: every[each.name] for each in found.get_inputs()} for name, found in sessions.items()}
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for round_number in range(ROUNDS + 5):
        for name, found in sessions.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                found.run(None, inputs[name])
            if round_number >= 5:
                taken[name].append((time.perf_counter() - start) / CALLS * 1e3)
    return {name: float(np.median(times)) for name, times in taken.items()}


def vectors_of(path: Path, texts: list[str], tokenizer: object, longest: int) -> np.ndarray:
    """What our graph at `path` makes of each text, cut to `longest` tokens, as the library cuts it."""
    found, rows = session(path), []
    names = [each.name for each in found.get_inputs()]
    for text in texts:
        encoded = tokenizer(text, truncation=True, max_length=longest, return_tensors="np")  # type: ignore[operator]
        rows.append(found.run(["sentence_embedding"], {name: encoded[name].astype(np.int64) for name in names})[0][0])
    return np.stack(rows)


def gains(vectors: np.ndarray) -> np.ndarray:
    """The discounted gain at 10 of each query, of vectors of a query and its document in turn, times 100."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors[0::2] @ vectors[1::2].T
    ranks = (scores > np.diag(scores)[:, None]).sum(1)
    return np.where(ranks < 10, 100 / np.log2(ranks + 2), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from transformers import AutoTokenizer

    from prune2deploy.runtimes.devices import cpu_device

    folder = options.work.resolve() / "library"
    if not folder.exists():
        library(QUANTISE, str(options.model.resolve()), str(folder), json.dumps(PRESETS))
    lines = (options.work / "data" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    texts = [row[side] for row in rows for side in ("query", "document")]
    own = {f"ours, {each.parent.parent.name}": each for each in sorted(options.work.glob("model_repository/*/1/model.onnx"))}
    theirs = {path.stem.replace("_", " "): path for path in sorted((folder / "onnx").glob("*.onnx"))}
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    longest = json.loads((options.model / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    scored = {
        name: gains(np.asarray(library(ENCODE, str(folder), f"onnx/{path.name}", given=texts)))
        for name, path in theirs.items()
    }
    scored |= {name: gains(vectors_of(path, texts, tokenizer, longest)) for name, path in own.items()}
    timed = medians({**theirs, **own})
    dense = "model"
    found = [
        {
            "model": "the library's fp32" if name == dense else name if name in own else f"the library's {name}",
            "ms": timed[name], "speedup": timed[dense] / timed[name], "ndcg": float(scored[name].mean()),
            "lost": float((scored[dense] - scored[name]).mean()),
            "standard_error": float((scored[dense] - scored[name]).std(ddof=1) / len(rows) ** 0.5),
            "megabytes": path.stat().st_size / 1e6,
        }
        for name, path in {**theirs, **own}.items()
    ]  # fmt: skip
    device = cpu_device()
    title = f"# Beside the library's int8 ({device.name}, {', '.join(device.instructions)}, {THREADS} threads)"
    lines = [title, "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for each in found:
        lines.append(
            f"| {each['model']} | {each['ms']:.2f} | {each['speedup']:.2f} | {each['ndcg']:.2f} | {each['lost']:.2f} "
            f"| {each['standard_error']:.2f} | {each['megabytes']:.0f} |"
        )
    (options.out / "embeddings_int8.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (options.out / "embeddings_int8.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
