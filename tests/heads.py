"""A tiny BERT with every head, and data that it is right about now and then."""

import json
import random

import numpy as np
import tiny
import torch
import transformers
from transformers import AutoTokenizer, BertConfig

MOODS = ("angry", "funny", "long", "old")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
HEADS = {
    "multi-label": "BertForSequenceClassification", "token-classification": "BertForTokenClassification",
    "question-answering": "BertForQuestionAnswering", "masked-lm": "BertForMaskedLM", "embeddings": "BertModel",
    "reranking": "BertForSequenceClassification", "multiple-choice": "BertForMultipleChoice",
}  # fmt: skip
KINDS = {"reranking": "text-scores"}  # the tasks of those that are not called so


def labels(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def save_model(task, directory):
    """A random model for `task`, its tokenizer, and what sentence-transformers puts beside an embedder."""
    vocabulary = len(tiny.SPECIAL) + len(tiny.WORDS) + len(tiny.PIECES)
    sizes = {**tiny.SIZES, "vocab_size": vocabulary, "max_position_embeddings": 32}
    more = {
        "multi-label": {**labels(MOODS), "problem_type": "multi_label_classification"},
        "token-classification": labels(TAGS), "reranking": labels(["LABEL_0"]),
    }.get(task, {})  # fmt: skip
    model = tiny.randomise(getattr(transformers, HEADS[task])(BertConfig(**sizes, **more)))
    model.save_pretrained(directory)
    tiny.save_tokenizer(directory, ["input_ids", "token_type_ids", "attention_mask"])
    settings = directory / "tokenizer_config.json"  # as transformers 4 reads it, too
    said = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**said, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
    if task == "embeddings":
        save_modules(directory)
    return directory


def save_modules(directory, mode="mean", prompts=None, normalise=True, size=24):
    """What makes of `directory` a model of sentence-transformers."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] if normalise else [])]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(modules)
    ]
    (directory / "1_Pooling").mkdir(exist_ok=True)
    flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    pooling = {"word_embedding_dimension": 32, **{f"pooling_mode_{flag}": name == mode for name, flag in flags.items()}}
    for path, said in (
        ("modules.json", listed), ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": size, "do_lower_case": False}),
        ("config_sentence_transformers.json", {"prompts": prompts or {}, "default_prompt_name": None}),
    ):  # fmt: skip
        (directory / path).write_text(json.dumps(said), encoding="utf-8")


def rows(task, model_dir, count, seed):
    """Samples for `task`, three quarters of them with the answers that the model itself gives."""
    rng = random.Random(seed)
    made = {
        "multi-label": moods, "token-classification": tagged, "question-answering": questions,
        "masked-lm": lambda *given: tiny.text_rows(count, seed), "embeddings": searched, "reranking": ranked,
        "multiple-choice": endings,
    }  # fmt: skip
    return made[task](model_dir, count, rng)


def asking(model_dir):
    """The model as a function of texts."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    name = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model = getattr(transformers, name).from_pretrained(model_dir).eval()

    def ask(*texts, **options):
        with torch.no_grad():
            return model(**tokenizer(*texts, return_tensors="pt", truncation=True, **options))

    return ask


def moods(model_dir, count, rng):
    ask = asking(model_dir)
    found = []
    for number in range(count):
        text = tiny.sentence(rng)
        given = (ask(text).logits[0] > 0).tolist() if number % 4 else [rng.random() > 0.5 for _ in MOODS]
        found.append({"text": text, "labels": [name for name, yes in zip(MOODS, given, strict=True) if yes]})
    return found


def tagged(model_dir, count, rng):
    ask = asking(model_dir)
    found = []
    for number in range(count):
        words = tiny.sentence(rng).split()
        said = ask(" ".join(words)).logits[0].argmax(-1).tolist()[1:-1]  # each of these words is one token
        tags = [TAGS[each] if number % 4 else rng.choice(TAGS) for each in said]
        found.append({"tokens": words, "ner_tags": tags})
    return found


def questions(model_dir, count, rng):
    found = []
    for number in range(count):
        words = [word for _ in range(3 if number % 5 == 0 else 1) for word in tiny.sentence(rng).split()]
        first = rng.randrange(len(words))
        text = " ".join(words[first : first + 2])
        answers = {"text": [text], "answer_start": [len(" ".join(words[:first])) + (first > 0)]}
        question = " ".join(tiny.sentence(rng).split()[:4])
        found.append({"question": question, "context": " ".join(words), "answers": answers})
    return found


def searched(model_dir, count, rng):
    found = []
    for _ in range(count):
        words = tiny.sentence(rng).split()
        document = [*words, *tiny.sentence(rng).split()[:3]]
        rng.shuffle(document)
        found.append({"query": " ".join(words), "document": " ".join(document)})
    return found


def ranked(model_dir, count, rng):
    ask = asking(model_dir)
    found = []
    for number in range(count // 4):
        query, passages = tiny.sentence(rng), [tiny.sentence(rng) for _ in range(4)]
        scores = [float(ask(query, passage).logits) for passage in passages]
        best = int(np.argmax(scores)) if number % 4 else rng.randrange(4)
        found += [{"query": query, "passage": each, "label": int(place == best)} for place, each in enumerate(passages)]
    return found


def endings(model_dir, count, rng):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = transformers.BertForMultipleChoice.from_pretrained(model_dir)
    found = []
    for number in range(count):
        first, before, *choices = (tiny.sentence(rng) for _ in range(5))
        pairs = tokenizer([first] * 3, [f"{before} {each}" for each in choices], padding=True, return_tensors="pt",
                          truncation=True)  # fmt: skip
        with torch.no_grad():
            best = int(model.eval()(**{name: tensor[None] for name, tensor in pairs.items()}).logits.argmax())
        row = {"sent1": first, "sent2": before, **{f"ending{place}": each for place, each in enumerate(choices)}}
        found.append({**row, "label": best if number % 4 else rng.randrange(3)})
    return found


def save(task, root):
    """`root`/model, and in `root`/data samples for it."""
    save_model(task, root / "model")
    (root / "data").mkdir()
    for split, count, seed in (("train", 40, 1), ("validation", 24, 2)):
        tiny.write_jsonl(root / "data" / f"{split}.jsonl", rows(task, root / "model", count, seed))
    return root
