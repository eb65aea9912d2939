"""Fine-tune an encoder for entities, answers or several labels, as models for benchmarks/heads.py to prune.

    python benchmarks/finetune_heads.py --base MODEL_DIR --data WORK_DIR/ner --task token-classification --out minilm-ner

MODEL_DIR is all-MiniLM-L6-v2 (see finetune.py). With `--as roberta` or `--as distilbert`, its weights become those of a
RoBERTa or a DistilBERT, whose layers are the same mathematics: a real model of that family. The data is read, and the loss
taken, by prune2deploy's own task.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from prune2deploy.config import Project
from prune2deploy.models.checkpoint import load_dense
from prune2deploy.tasks.predict import metric_of, torch_run
from prune2deploy.tasks.registry import task_of

BATCH, POOL = 16, 20  # samples; batches whose samples are sorted by length
SUFFIX = {"token-classification": "ForTokenClassification", "question-answering": "ForQuestionAnswering",
          "multi-label": "ForSequenceClassification"}  # fmt: skip
COLUMNS = {
    "token-classification": {"text": "tokens", "label": "ner_tags"}, "multi-label": {"text": "text", "label": "labels"},
    "question-answering": {"text": "question", "text_pair": "context", "label": "answers"},
}  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
# what DistilBERT calls the parts of a layer
DISTIL = {
    "encoder.layer.": "transformer.layer.", "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin", "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin", "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1", "output.dense": "ffn.lin2", "output.LayerNorm": "output_layer_norm",
}  # fmt: skip


def labels_of(data: Path, task: str) -> list[str]:
    """The names of the labels in the training split."""
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    if task == "question-answering":
        return ["start", "end"]
    return sorted({label for row in rows for label in row[COLUMNS[task]["label"]]})


def fresh(base: Path, family: str, task: str, names: list[str]) -> transformers.PreTrainedModel:
    """A model of `family` with the encoder weights of `base`, a BERT, and a new head."""
    said = json.loads((base / "config.json").read_text(encoding="utf-8"))
    maps = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    more = {**maps, **({"problem_type": "multi_label_classification"} if task == "multi-label" else {})}
    sizes = {name: said[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                           "intermediate_size", "max_position_embeddings")}  # fmt: skip
    state = load_file(base / "model.safetensors")
    types = state["embeddings.token_type_embeddings.weight"]
    if family == "roberta":  # positions are counted from behind the padding token's number
        config = transformers.RobertaConfig(**{**sizes, "max_position_embeddings": sizes["max_position_embeddings"] + 1},
                                            type_vocab_size=1, pad_token_id=0, layer_norm_eps=1e-12, **more)  # fmt: skip
        positions = state["embeddings.position_embeddings.weight"]
        state["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros_like(positions[:1]), positions])
        state["embeddings.token_type_embeddings.weight"] = types[:1]
        prefix, name = "roberta.", "Roberta"
    elif family == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=sizes["vocab_size"], dim=sizes["hidden_size"], n_layers=sizes["num_hidden_layers"],
            n_heads=sizes["num_attention_heads"], hidden_dim=sizes["intermediate_size"], **more,
            max_position_embeddings=sizes["max_position_embeddings"],
        )  # fmt: skip
        state["embeddings.word_embeddings.weight"] += types[0]  # which every text of one segment gets
        prefix, name = "distilbert.", "DistilBert"
        state = {renamed(each): tensor for each, tensor in state.items() if "token_type" not in each}
    else:
        config, prefix, name = transformers.BertConfig(**sizes, **more), "bert.", "Bert"
    model = getattr(transformers, name + SUFFIX[task])(config)
    known = {f"{prefix}{each}": tensor for each, tensor in state.items()}
    own = model.state_dict()
    model.load_state_dict({**own, **{each: tensor for each, tensor in known.items() if each in own}})
    return model


def renamed(name: str) -> str:
    """What DistilBERT calls the weight `name` of BERT."""
    for old, new in DISTIL.items():
        name = name.replace(old, new)
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=tuple(SUFFIX), required=True)
    parser.add_argument("--as", dest="family", choices=("bert", "roberta", "distilbert"), default="bert")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-4)
    options = parser.parse_args()

    torch.manual_seed(0)
    model = fresh(options.base, options.family, options.task, labels_of(options.data, options.task))
    model.save_pretrained(options.out)
    for file in TOKENIZER_FILES:
        if (options.base / file).exists():
            (options.out / file).write_bytes((options.base / file).read_bytes())
    values = {"path": str(options.data.resolve()), "columns": COLUMNS[options.task], "max_length": 128}
    project = Project(model=str(options.out.resolve()), task=options.task, data=values, workload=[{"seq_len": 128}])
    model = load_dense(options.out).requires_grad_(True)
    task = task_of(project, options.out, model.config)
    samples, rng = task.calibration(1_000_000, 0), random.Random(0)
    steps = options.epochs * -(-len(samples) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=steps, pct_start=0.1)
    for epoch in range(options.epochs):
        model.train()
        order = list(range(len(samples)))
        rng.shuffle(order)
        batches = []
        for start in range(0, len(order), BATCH * POOL):
            pool = sorted(order[start : start + BATCH * POOL], key=lambda index: samples.tokens(index) or 0)
            batches += [pool[first : first + BATCH] for first in range(0, len(pool), BATCH)]
        rng.shuffle(batches)
        for indices in batches:
            batch = samples.batch(indices)
            wanted = task.targets(batch.labels)
            assert wanted is not None
            loss = task.objective.losses(task.said(model, batch.tensors()), wanted, batch.counts())
            (loss.sum() / len(indices)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()
        evaluation = task.evaluation()
        score = metric_of(torch_run(model, task), task, evaluation, evaluation.labels).score()
        print(f"epoch {epoch + 1}: {score}", flush=True)
    model.save_pretrained(options.out)


if __name__ == "__main__":
    main()
