"""Small data for heads that nothing public is at hand for, made by grammar or from wikitext; written as JSON lines.

    python benchmarks/heads_data.py --wikitext ../shared/data/wikitext/wiki.test.raw --out WORK_DIR

`ner`: sentences with people, places, organisations and dates, some names of which are of two kinds, so that only the
sentence tells; `multi-label`: messages that touch one to three of eight subjects; both are made by grammar (no licence
applies). `qa`: a sentence of wikitext (CC BY-SA) in which one name or number is asked for, and the paragraph as the
context; articles are in one of both splits alone.
"""

import argparse
import json
import random
import re
from pathlib import Path

from embeddings import articles

FIRST = (
    "Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Louis", "Maria",
    "Nils", "Olga", "Peter", "Rosa", "Simon", "Tara", "Viktor", "Paris", "Florence", "Austin", "Jordan", "Chelsea", "Dakota",
)  # fmt: skip
LAST = (
    "Berg", "Castle", "Diaz", "Eriksen", "Fischer", "Green", "Holm", "Ivanov", "Jensen", "Kowalski", "Lang", "Moreau",
    "Novak", "Olsen", "Park", "Rossi", "Stone", "Weber",
)  # fmt: skip
PLACES = (
    "Paris", "Florence", "Austin", "Jordan", "Chelsea", "Dakota", "Berlin", "Oslo", "Madrid", "Lisbon", "Prague", "Vienna",
    "Geneva", "Naples", "Boston", "Denver", "Kyoto", "Lima", "Cairo", "Accra",
)  # fmt: skip
ORGANISATIONS = (
    "Green Energy", "Stone & Weber", "Northern Rail", "Park Hotels", "Castle Insurance", "Berg Systems",
    "Institute of Physics", "University of Austin", "Jordan Airlines", "Oslo Bank", "Lang Foundation", "Moreau Films",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
NAME = re.compile(r"(?<= )(?:[A-Z][a-z]+(?: [A-Z][a-z]+)*|\d{4})(?= )")  # or a year
SENTENCES = (
    "{PER} moved from {LOC} to {LOC} in {DAT} .", "{ORG} opened an office in {LOC} , said {PER} .",
    "On {DAT} , {PER} joined {ORG} as an engineer .", "The trial of {PER} against {ORG} begins on {DAT} .",
    "{LOC} was cold when {PER} and {PER} arrived .", "Shares of {ORG} fell after the news from {LOC} .",
    "Nobody at {ORG} had heard of it before {DAT} .", "It may rain in {LOC} again , but not before noon .",
    "{PER} , who had worked for {ORG} since {DAT} , left for {LOC} .", "There is little to see here , and less to do .",
    "The book by {PER} was printed in {LOC} on {DAT} .", "According to {ORG} , {LOC} needs more trains .",
    "March on , said the old man , and nobody did .", "She parked the car near the castle and waited .",
)  # fmt: skip
SUBJECTS = {
    "delivery": ("the parcel came {N} days late", "my order has not arrived yet", "the courier left it at the wrong door"),
    "price": ("it costs {N} euros more than last year", "the discount was never applied", "this is far too expensive"),
    "quality": ("the handle broke after {N} days", "the fabric feels cheap", "one of the screws was missing"),
    "service": ("nobody answers the phone", "the agent was friendly and quick", "I wrote to support {N} times"),
    "website": ("the page crashes when I log in", "the search finds nothing", "I had to click {N} times to check out"),
    "refund": ("I want my money back", "the refund took {N} weeks", "they refused to take it back"),
    "praise": ("I love it", "it works better than I expected", "I would buy it again"),
    "account": ("my password does not work", "I cannot change my address", "there are {N} accounts under my name"),
}  # fmt: skip
GLUE = (" and ", " , but ", " . Also ", " ; ", " . ")


def person(rng: random.Random) -> str:
    return " ".join([rng.choice(FIRST), *([rng.choice(LAST)] if rng.random() < 0.6 else [])])


def date(rng: random.Random) -> str:
    return rng.choice([f"{rng.choice(MONTHS)} {rng.randint(1, 28)}", str(rng.randint(1950, 2025)), rng.choice(MONTHS)])


def ner(count: int, rng: random.Random) -> list[dict]:
    make = {"PER": person, "LOC": lambda rng: rng.choice(PLACES), "ORG": lambda rng: rng.choice(ORGANISATIONS), "DAT": date}
    rows = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for part in rng.choice(SENTENCES).split():
            kind = part.strip("{}")
            if kind not in make or part == kind:
                words, tags = [*words, part], [*tags, "O"]
                continue
            found = make[kind](rng).split()
            words += found
            tags += [f"{'I' if place else 'B'}-{kind}" for place in range(len(found))]
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def multi_label(count: int, rng: random.Random) -> list[dict]:
    rows = []
    for _ in range(count):
        subjects = rng.sample(list(SUBJECTS), rng.choice((1, 1, 2, 2, 3)))
        parts = [rng.choice(SUBJECTS[each]).replace("{N}", str(rng.randint(2, 30))) for each in subjects]
        text = parts[0]
        for part in parts[1:]:
            text += rng.choice(GLUE) + part
        rows.append({"text": text, "labels": sorted(subjects)})
    return rows


def questions(paragraphs: list[str], rng: random.Random, each: int) -> list[dict]:
    """Up to `each` questions of every paragraph: a sentence without one name or number, which is the answer."""
    rows = []
    for paragraph in paragraphs:
        sentences = re.split(r"(?<= [.?!]) ", paragraph)
        asked = [(text, match) for text in sentences for match in NAME.finditer(text)]
        for text, match in rng.sample(asked, min(each, len(asked))):
            if paragraph.count(match[0]) != 1 or len(text) < 40:
                continue
            question = f"{text[: match.start()]}what{text[match.end() :]}".strip()
            answers = {"text": [match[0]], "answer_start": [paragraph.index(match[0])]}
            rows.append({"question": question[:300], "context": paragraph, "answers": answers})
    return rows


def write(rows: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wikitext", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for split, seed, count in (("train", 1, 6000), ("validation", 2, 1000)):
        write(ner(count, random.Random(seed)), options.out / "ner" / f"{split}.jsonl")
        write(multi_label(count, random.Random(seed)), options.out / "multi-label" / f"{split}.jsonl")
    splits: dict[str, list[dict]] = {"train": [], "validation": []}
    rng = random.Random(3)
    for number, paragraphs in enumerate(articles(options.wikitext)):
        held_out = number % 4 == 0
        splits["validation" if held_out else "train"] += questions(paragraphs, rng, 1 if held_out else 4)
    for split, rows in splits.items():
        rng.shuffle(rows)
        write(rows, options.out / "qa" / f"{split}.jsonl")


if __name__ == "__main__":
    main()
