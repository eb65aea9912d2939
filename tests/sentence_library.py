"""The real sentence-transformers with its ONNX backend, which needs an older transformers; for tests and benchmarks.

`python tests/sentence_library.py DIRECTORY` installs it there, in a virtual environment of its own (`make test` does so).
Where it cannot be had, the reason is left in the directory, and tests that need it are skipped with it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = Path(os.environ.get("PRUNE2DEPLOY_SENTENCE_TRANSFORMERS", ROOT / ".sentence-transformers"))
REASON_FILE = "why-not.txt"
TORCH = "torch==2.13.0"  # as in constraints.txt
PACKAGES = ("sentence-transformers[onnx]==5.7.0", "transformers<4.58")
# what a process in that environment runs: vectors of texts, or scores of pairs, as JSON
ENCODE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], backend="onnx", local_files_only=True)
print(json.dumps({"vectors": model.encode(json.load(sys.stdin)).tolist(), "length": model.max_seq_length}))
"""
SCORE = """
import json, sys, torch
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1], backend="onnx", local_files_only=True)
print(json.dumps(model.predict(json.load(sys.stdin), activation_fn=torch.nn.Identity()).tolist()))
"""


def install(directory):
    """Install the library in `directory`; leaves a reason there, and no library, where that cannot be."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
        pip = [python_of(directory), "-m", "pip", "install", "--quiet", "--retries", "1", "--disable-pip-version-check"]
        wheels = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
        subprocess.run([*pip, "--no-deps", TORCH, *wheels], check=True)
        subprocess.run([*pip, TORCH, *PACKAGES], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        (directory / REASON_FILE).write_text(f"no sentence-transformers here: {error}".splitlines()[0])
        print(f"tests of the real sentence-transformers will be skipped: {error}", file=sys.stderr)


def python_of(directory):
    return directory / "venv" / "bin" / "python"


def why_not():
    """Why the library is not there; None where it is."""
    if not HOME.is_dir():
        return f"no sentence-transformers in {HOME}: `make test` installs it"
    reason = HOME / REASON_FILE
    return reason.read_text() if reason.is_file() else None


def asked(program, folder, given):
    """What `program` makes of `given` with the model in `folder`."""
    done = subprocess.run(
        [python_of(HOME), "-c", program, str(folder)], input=json.dumps(given), capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
