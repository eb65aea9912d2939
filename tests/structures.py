"""A tiny random model of every family there is a file of: odd sizes, so that a wrong axis cannot go unseen."""

import torch
from tiny import (
    LABELS,
    PIECES,
    SPECIAL,
    WORDS,
    loaded_task,
    make_project,
    randomise,
    save_images,
    save_processor,
    save_tokenizer,
    text_rows,
    write_jsonl,
)
from transformers import (
    AlbertConfig,
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

TEXT = {**LABELS, "vocab_size": len(SPECIAL) + len(WORDS) + len(PIECES), "max_position_embeddings": 32, "pad_token_id": 0}
PLAIN = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}

IMAGE = 32
CONFIGURATIONS = {
    "bert": BertConfig(**TEXT, **PLAIN),
    "albert": AlbertConfig(**TEXT, **{**PLAIN, "num_hidden_layers": 4}, embedding_size=16, num_hidden_groups=2),
    "modernbert": ModernBertConfig(
        **TEXT, **PLAIN, local_attention=6, global_attn_every_n_layers=2, cls_token_id=2, sep_token_id=3, bos_token_id=2,
        eos_token_id=3, reference_compile=False,
    ),
    "llama": LlamaConfig(**TEXT, **PLAIN, num_key_value_heads=2, bos_token_id=2, eos_token_id=3),
    "vit": ViTConfig(**LABELS, **PLAIN, image_size=16, patch_size=4),
    "swin": SwinConfig(
        **LABELS, image_size=IMAGE, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, mlp_ratio=2.0
    ),
    "resnet": ResNetConfig(
        **LABELS, embedding_size=8, hidden_sizes=[16, 24], depths=[2, 2], layer_type="bottleneck"
    ),
}


def model_of(family):
    """A random model, its buffers (such as a batch norm's statistics) too."""
    import transformers

    from prune2deploy.models.family import families

    config = CONFIGURATIONS[family]
    config.architectures = [next(iter(families()[family].heads))]
    config._attn_implementation = "eager"
    if not is_text(family) and not hasattr(config, "image_size"):
        config.image_size = [IMAGE, IMAGE]  # as its processor has it
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomise(getattr(transformers, config.architectures[0])(config))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(*((-0.3, 0.3) if name.endswith("mean") else (0.2, 0.6)))
    return model.requires_grad_(False)


def is_text(family):
    return hasattr(CONFIGURATIONS[family], "vocab_size")


def save(family, directory):
    """The model of `family` as a directory, with its tokenizer or image processor."""
    model_of(family).save_pretrained(directory)
    if is_text(family):
        names = ["input_ids", *(["token_type_ids"] if family in ("bert", "albert") else []), "attention_mask"]
        save_tokenizer(directory, names)
    else:
        save_processor(directory, CONFIGURATIONS[family].image_size if family == "vit" else IMAGE)
    return directory


def save_with_data(family, root):
    """`root`/model, and in `root`/data samples of its kind."""
    save(family, root / "model")
    if not is_text(family):
        save_images(root / "data", 16)
    else:
        (root / "data").mkdir()
        for split, count, seed in (("train", 40, 1), ("validation", 24, 2)):
            write_jsonl(root / "data" / f"{split}.jsonl", text_rows(count, seed))
    return root


def loaded(family, root, project):
    """(model, task) of what `save_with_data` wrote to `root`, in the directory `project`."""
    kind = "text-classification" if is_text(family) else "image-classification"
    changes = {} if is_text(family) else {"workload": [{"batch": 2}]}
    return loaded_task(make_project(root / "model", root / "data", kind, project, **changes))
