"""Small data for heads that nothing public is at hand for, made of real sentences; written as JSON lines.

    python benchmarks/heads_data.py --shared ../shared --out WORK_DIR

`ner`: sentences of wikitext (CC BY-SA), lower-cased, in which names and dates are to be found: a name is what was written
with capitals, so that only words and sentence tell (the first word, whose capital says nothing, is left out).
`qa`: a sentence of wikitext in which one name or number is asked for, and the sentences around it as the context.
`multi-label`: one to three sentences of SST-2 (GLUE, licence unstated) and wikitext; is something praised, something
criticised, something told? What is trained on and what is judged have no article and no sentence in common.
"""

import argparse
import json
import random
import re
from pathlib import Path

from embeddings import articles

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
NAME = re.compile(r"(?<= )(?:[A-Z][a-z]+(?: [A-Z][a-z]+)*|\d{4})(?= )")  # or a year
WORDS = (6, 60)  # of a sentence
AROUND = 2  # sentences of the context before and behind the one that is asked about
SENTIMENTS = ("criticised", "praised")
MIXES = {"train": 4000, "validation": 800}  # samples of multi-label


def sentences_of(paragraph: str) -> list[str]:
    return [text.strip() for text in re.split(r"(?<= [.?!]) ", paragraph)]


def tagged(sentence: str) -> dict:
    """Words without capitals, each with the label that its capital, or its being a date, says."""
    words, tags, before = sentence.split()[1:], [], "O"
    for word in words:
        if word in MONTHS or re.fullmatch(r"1[0-9]{3}|20[0-9]{2}", word):
            kind = "DATE"
        elif re.fullmatch(r"[A-Z][A-Za-z\-]+", word):
            kind = "NAME"
        else:
            kind = "O"
        tags.append(kind if kind == "O" else f"{'I' if before == kind else 'B'}-{kind}")
        before = kind
    return {"tokens": [word.lower() for word in words], "ner_tags": tags}


def entities(paragraphs: list[str]) -> list[dict]:
    sentences = [text for paragraph in paragraphs for text in sentences_of(paragraph)]
    return [tagged(text) for text in sentences if WORDS[0] <= len(text.split()) <= WORDS[1]]


def questions(paragraphs: list[str], rng: random.Random, each: int) -> list[dict]:
    """Up to `each` questions of every paragraph: a sentence without one name or number, which is the answer."""
    rows = []
    for paragraph in paragraphs:
        sentences = sentences_of(paragraph)
        asked = [(place, match) for place, text in enumerate(sentences) for match in NAME.finditer(text)]
        for place, match in rng.sample(asked, min(each, len(asked))):
            text, context = sentences[place], " ".join(sentences[max(0, place - AROUND) : place + AROUND + 1])
            if context.count(match[0]) != 1 or len(text) < 40:
                continue
            question = f"{text[: match.start()]}what{text[match.end() :]}".strip()
            answers = {"text": [match[0]], "answer_start": [context.index(match[0])]}
            rows.append({"question": question[:300], "context": context, "answers": answers})
    return rows


def mixed(count: int, judged: list[tuple[str, str]], told: list[str], rng: random.Random) -> list[dict]:
    """Sentences that praise or criticise, `judged`, and such that only tell, `told`; each but once."""
    rng.shuffle(judged)
    rng.shuffle(told)
    left = {"judged": iter(judged), "told": iter([(text, "told") for text in told])}
    rows = []
    for _ in range(count):
        parts = [next(left[rng.choice(("judged", "judged", "told"))], None) for _ in range(rng.choice((1, 2, 2, 3)))]
        there = [part for part in parts if part]
        if there:
            rows.append({"text": " ".join(text for text, _ in there), "labels": sorted({label for _, label in there})})
    return rows


def of_sst2(file: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(row["sentence"].strip(), SENTIMENTS[int(row["label"])]) for row in rows if len(row["sentence"]) > 30]


def write(rows: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = options.shared / "data"
    found = articles(data / "wikitext" / "wiki.test.raw")
    for seed, split in enumerate(("train", "validation")):
        rng = random.Random(seed)
        own = [each for number, each in enumerate(found) if (number % 4 == 0) == (split == "validation")]
        paragraphs = [text for article in own for text in article]
        told = [text.lower() for paragraph in paragraphs for text in sentences_of(paragraph) if 30 < len(text) < 150]
        rows = {
            "ner": entities(paragraphs), "qa": questions(paragraphs, rng, 1 if split == "validation" else 2),
            "multi-label": mixed(MIXES[split], of_sst2(data / "sst2" / f"{split}.jsonl"), told, rng),
        }  # fmt: skip
        for name, samples in rows.items():
            rng.shuffle(samples)
            write(samples, options.out / name / f"{split}.jsonl")


if __name__ == "__main__":
    main()
