"""A tiny random model of every family there is a file of: odd sizes, so that a wrong axis cannot go unseen."""

import copy
import json

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
    BeitConfig,
    BertConfig,
    CamembertConfig,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    DebertaConfig,
    DebertaV2Config,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    MobileBertConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    ResNetConfig,
    RobertaConfig,
    SegformerConfig,
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    SwinConfig,
    T5Config,
    ViTConfig,
    XLMRobertaConfig,
)

TEXT = {**LABELS, "vocab_size": len(SPECIAL) + len(WORDS) + len(PIECES), "max_position_embeddings": 32, "pad_token_id": 0}
PLAIN = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}

ROBERTA = {**TEXT, **PLAIN, "max_position_embeddings": 34, "bos_token_id": 2, "eos_token_id": 3}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 32, "type_vocab_size": 0}
PICTURE = {**LABELS, **PLAIN, "image_size": 16, "patch_size": 4}
NARROW = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}

IMAGE = 32
CONFIGURATIONS = {
    "bert": BertConfig(**TEXT, **PLAIN),
    "roberta": RobertaConfig(**ROBERTA),
    "xlm-roberta": XLMRobertaConfig(**ROBERTA),
    "camembert": CamembertConfig(**ROBERTA),
    "electra": ElectraConfig(**TEXT, **PLAIN, embedding_size=16),
    "distilbert": DistilBertConfig(**TEXT, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
    "mpnet": MPNetConfig(**ROBERTA),
    "deberta": DebertaConfig(**TEXT, **PLAIN, **DEBERTA),
    "deberta-v2": DebertaV2Config(
        **TEXT, **PLAIN, **DEBERTA, position_buckets=8, share_att_key=True, norm_rel_ebd="layer_norm"
    ),
    "nomic_bert": NomicBertConfig(**TEXT, **PLAIN),
    "mobilebert": MobileBertConfig(
        **TEXT, **{**PLAIN, "num_hidden_layers": 2}, embedding_size=16, intra_bottleneck_size=16,
        num_feedforward_networks=3,
    ),
    "albert": AlbertConfig(**TEXT, **{**PLAIN, "num_hidden_layers": 4}, embedding_size=16, num_hidden_groups=2),
    "modernbert": ModernBertConfig(
        **TEXT, **PLAIN, local_attention=6, global_attn_every_n_layers=2, cls_token_id=2, sep_token_id=3, bos_token_id=2,
        eos_token_id=3, reference_compile=False,
    ),
    "llama": LlamaConfig(**TEXT, **PLAIN, num_key_value_heads=2, bos_token_id=2, eos_token_id=3),
    "vit": ViTConfig(**PICTURE),
    "deit": DeiTConfig(**PICTURE),
    "beit": BeitConfig(**PICTURE, use_shared_relative_position_bias=True),
    "dinov2": Dinov2Config(**PICTURE, mlp_ratio=2, use_swiglu_ffn=True),
    "dinov2_with_registers": Dinov2WithRegistersConfig(**PICTURE, mlp_ratio=2, num_register_tokens=2),
    "clip": CLIPConfig(**LABELS, vision_config={**NARROW, "image_size": 16, "patch_size": 4}, text_config=NARROW),
    "siglip": SiglipConfig(**LABELS, vision_config={**NARROW, "image_size": 16, "patch_size": 4}, text_config=NARROW),
    "clip_text_model": CLIPTextConfig(**TEXT, **PLAIN, projection_dim=16, bos_token_id=2, eos_token_id=3),
    "siglip_text_model": SiglipTextConfig(**TEXT, **PLAIN, projection_size=32, bos_token_id=2, eos_token_id=3),
    "t5": T5Config(
        **LABELS, vocab_size=TEXT["vocab_size"], pad_token_id=0, d_model=32, d_kv=6, d_ff=48, num_layers=3, num_heads=4,
        relative_attention_num_buckets=8, feed_forward_proj="gated-gelu",
    ),
    "clip_vision_model": CLIPVisionConfig(**NARROW, image_size=16, patch_size=4, projection_dim=24),
    "siglip_vision_model": SiglipVisionConfig(**NARROW, image_size=16, patch_size=4),
    "dinov3_vit": DINOv3ViTConfig(**PICTURE, num_register_tokens=2, use_gated_mlp=True, hidden_act="silu"),
    "segformer": SegformerConfig(
        **LABELS, hidden_sizes=[8, 16], depths=[2, 1], num_attention_heads=[2, 4], mlp_ratios=[3, 2], num_encoder_blocks=2,
        patch_sizes=[7, 3], strides=[4, 2], sr_ratios=[2, 1], decoder_hidden_size=12,
    ),
    "convnext": ConvNextConfig(**LABELS, hidden_sizes=[8, 16], depths=[2, 2], num_stages=2, patch_size=4),
    "swin": SwinConfig(
        **LABELS, image_size=IMAGE, patch_size=2, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4, mlp_ratio=2.0
    ),
    "resnet": ResNetConfig(
        **LABELS, embedding_size=8, hidden_sizes=[16, 24], depths=[2, 2], layer_type="bottleneck"
    ),
}


def model_of(family, head=None):
    """A random model of the class `head` (the first of its family), its buffers (such as a batch norm's) too."""
    import transformers

    from prune2deploy.models.family import families

    config = copy.deepcopy(CONFIGURATIONS[family])
    config.architectures = [head or next(iter(families()[family].heads))]
    if config.architectures[0].endswith("ForQuestionAnswering"):
        config.num_labels = 2
    config._attn_implementation = "eager"
    if families()[family].any_size:
        config.image_size = [IMAGE, IMAGE]  # as its processor has it
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # without norms, what rounding does grows from layer to layer
        spread = 0.2 if getattr(config, "normalization_type", "") == "no_norm" else 0.3
        model = randomise(getattr(transformers, config.architectures[0])(config), spread)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(*((-0.3, 0.3) if name.endswith("mean") else (0.2, 0.6)))
    if family == "mobilebert":  # which looks at a token's neighbours: those that pad are nothing, as training leaves them
        model.get_input_embeddings().weight.data[config.pad_token_id] = 0
    return model.requires_grad_(False)


def is_text(family):
    return not of_images(family)


def of_images(family):
    from prune2deploy.models.family import families, takes_images

    return families()[family].any_size or takes_images(CONFIGURATIONS[family])


def save_processor_of(model, directory):
    """What makes the inputs of `model`."""
    if is_text(model.config.model_type):
        types = ["token_type_ids"] if model.config.model_type in ("bert", "albert") else []
        save_tokenizer(directory, ["input_ids", *types, "attention_mask"])
        return
    size = getattr(model.config, "vision_config", model.config).image_size
    save_processor(directory, size if isinstance(size, int) else size[0])


def save(family, directory):
    """The model of `family` as a directory, with its tokenizer or image processor."""
    from prune2deploy.models.family import families

    model = model_of(family)
    model.save_pretrained(directory)
    save_processor_of(model, directory)
    if families()[family].any_size:  # as published: config.json says nothing of images, or what is not so
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        del config["image_size"]
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
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
    length = 32 if family == "siglip_text_model" else 8  # whose texts are all padded as far as it goes
    point = {"batch": 2, "seq_len": length} if is_text(family) else {"batch": 2}
    columns = {"text": "text"} if is_text(family) else {"image": "image"}
    if not is_encoder(family):
        columns["label"] = "label"
    return loaded_task(make_project(
        root / "model", root / "data", kind_of(family), project, data_columns=columns, workload=[point]
    ))  # fmt: skip


def is_encoder(family):
    """Whether its first class has no head."""
    from prune2deploy.models.family import families

    return not next(iter(families()[family].heads.values()))


def kind_of(family):
    if is_encoder(family):
        return "embeddings" if is_text(family) else "image-embeddings"
    return "text-classification" if is_text(family) else "image-classification"
