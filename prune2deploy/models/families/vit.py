"""ViT and DeiT: pre-norm encoder over image patches."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, StandIn, size_of_heads
from prune2deploy.models.family import Family

if TYPE_CHECKING:
    from transformers import ViTConfig


def blocks(config: "ViTConfig") -> list[Block]:
    """See Family; the norm before a block goes with it."""
    heads = config.num_attention_heads
    size = size_of_heads(config, config.hidden_size, heads)
    found = []
    for layer in range(config.num_hidden_layers):
        root = f"layers.{layer}"
        found.append(Block(
            f"{layer}.attention", root, layer, "attention", "attention", heads,
            output="attention.o_proj", columns=size,
            cuts=tuple(Cut(f"attention.{name}_proj", (size,)) for name in "qkv"),
            gone=(StandIn("layernorm_before", "input"), StandIn("attention", "bias", pair=True)),
            entry="layernorm_before", span="attention",
        ))  # fmt: skip
        found.append(Block(
            f"{layer}.ffn", root, layer, "ffn", "ffn", config.intermediate_size,
            output="mlp.fc2", columns=1, cuts=(Cut("mlp.fc1"),),
            gone=(StandIn("layernorm_after", "input"), StandIn("mlp", "bias")), entry="layernorm_after",
        ))  # fmt: skip
    return found


FAMILY = Family(
    model_type="vit",
    heads={"ViTForImageClassification": "classifier"},
    blocks=blocks,
    unused=(r"^vit\.pooler\.",),
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "pre",
        "input": f"i{config.image_size}p{config.patch_size}", "outputs": config.num_labels,
    },
)  # fmt: skip
