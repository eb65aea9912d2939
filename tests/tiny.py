"""Tiny random models and data sets, and what several tests do with them."""

import json
import random

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from prune2deploy.config import Project
from prune2deploy.models.checkpoint import Provenance, load_dense
from prune2deploy.models.family import blocks_of, roots_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.signature import signature_of as signature_of_config
from prune2deploy.tasks.registry import task_of

TOPICS = ("art", "sport", "war")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT = (
    "the a of in and was painted by played won lost team goal match army king battle fought river city song "
    "film music book line new old great first last day year man woman house"
)
WORDS = tuple(TEXT.split())
PIECES = ("##s", "##ed", "##ing", "##er", "##ly", *"bcdefghijk")
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
LABELS = {"id2label": dict(enumerate(TOPICS)), "label2id": {name: index for index, name in enumerate(TOPICS)}}


def randomise(model, std=0.3):
    # biases and norms too: a wrong treatment of zeros and ones would not show
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = std * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + noise if "norm" in name.lower() and name.endswith("weight") else noise)
    return model.eval()


def save_bert(directory, **changes):
    vocabulary = {piece: index for index, piece in enumerate((*SPECIAL, *WORDS, *PIECES))}
    assert len(vocabulary) == len(SPECIAL) + len(WORDS) + len(PIECES)
    defaults = {**SIZES, **LABELS, "vocab_size": len(vocabulary), "max_position_embeddings": 32}
    config = BertConfig(**{**defaults, **changes})
    randomise(BertForSequenceClassification(config)).save_pretrained(directory)
    return save_tokenizer(directory, ["input_ids", "token_type_ids", "attention_mask"])


def save_tokenizer(directory, input_names):
    vocabulary = {piece: index for index, piece in enumerate((*SPECIAL, *WORDS, *PIECES))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, unk_token="[UNK]", sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]", mask_token="[MASK]",
        model_input_names=input_names,
    ).save_pretrained(directory)  # fmt: skip
    return directory


def save_vit(directory):
    config = ViTConfig(**SIZES, **LABELS, image_size=16, patch_size=4)
    randomise(ViTForImageClassification(config)).save_pretrained(directory)
    return save_processor(directory, 16)


def save_processor(directory, size):
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": size, "width": size},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return directory


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sentence(rng):
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 14)))


def text_rows(count, seed):
    rng = random.Random(seed)
    return [{"text": sentence(rng), "label": rng.choice(TOPICS)} for _ in range(count)]


def pair_rows(count, seed):
    rng = random.Random(seed)
    return [
        {"sentence1": sentence(rng), "sentence2": sentence(rng), "label": rng.randrange(len(TOPICS))}
        for _ in range(count)
    ]


def taught(model_dir, rows):
    """`rows` with the labels that the model itself gives them, but for every fourth, so that it is often right."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = BertForSequenceClassification.from_pretrained(model_dir).eval()
    for number, row in enumerate(rows):
        if number % 4:
            texts = [value for name, value in row.items() if name != "label"]
            with torch.no_grad():
                index = int(model(**tokenizer(*texts, return_tensors="pt")).logits.argmax())
            row["label"] = index if isinstance(row["label"], int) else TOPICS[index]
    return rows


def save_images(directory, count=12):
    rng = np.random.default_rng(5)
    for split in ("train", "validation"):
        (directory / split).mkdir(parents=True)
        rows = []
        for index in range(count):
            pixels = rng.integers(0, 256, size=(20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(directory / split / f"{index:02}.png")
            rows.append({"file_name": f"{index:02}.png", "label": TOPICS[index % len(TOPICS)]})
        write_jsonl(directory / split / "metadata.jsonl", rows)
    return directory


def make_project(model, data, task, tmp_path, **changes):
    """A project of `model` on `data`; `changes` are keys of the project file, in `data` as `data_...`."""
    columns = {"image": "image"} if task == "image-classification" else {"text": "text"}
    settings = {"path": str(data), "columns": {**columns, "label": "label"}}
    settings |= {
        key.removeprefix("data_"): changes.pop(key) for key in list(changes) if key.startswith("data_")
    }
    if task == "text-classification":
        changes.setdefault("workload", [{"batch": 2, "seq_len": 8}])
    changes.setdefault("calibration", {"samples": 16})
    values = {"model": str(model), "task": task, "data": settings, **changes}
    return Project.model_validate({**values, "root": tmp_path})


def loaded_task(project):
    directory = project.resolve(project.model)
    model = load_dense(directory)
    return model, task_of(project, directory, model.config)


def signature_of(model):
    return signature_of_config(model.config)


def layers_of(model):
    return [model.get_submodule(root) for root in roots_of(blocks_of(model))]


def plan_keeping(model, kept):
    """The plan that keeps `kept(block)` units of each block, drawn at random so that they are no prefix."""
    rng = random.Random(3)
    units = {block: rng.sample(range(block.units), kept(block)) for block in blocks_of(model)}
    return Plan.of(signature_of(model), units)


def ragged(block):
    """Another width in every block."""
    return (3, 1, 2)[block.layer] if block.kind == "attention" else (50, 7, 33)[block.layer]


PLANS = {
    "ragged": ragged,
    "attention vanished": lambda block: 0 if (block.layer, block.kind) == (1, "attention") else ragged(block),
    "ffn vanished": lambda block: 0 if (block.layer, block.kind) == (1, "ffn") else ragged(block),
    "layer vanished": lambda block: 0 if block.layer == 0 else ragged(block),
    "all vanished": lambda block: 0,
}


def provenance(**changes):
    values = {
        "source": "models/tiny", "source_sha256": "0" * 64, "task": "text-classification", "method": "full",
        "budget": {"kind": "speedup", "value": 2.0}, "data": "data", "calibration_sha256": "1" * 64,
        "calibration_samples": 16, "labels": "data",
        "seed": 0, "threads": 2, "versions": {"torch": torch.__version__},
    }  # fmt: skip
    return Provenance(**{**values, **changes})
