"""ViT and DeiT: pre-norm encoder over image patches."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import ViTConfig


def blocks(config: "ViTConfig") -> list[Block]:
    """See Family."""
    units = config.num_attention_heads
    inside = [f"attention.{name}_proj" for name in "qkv"]
    attention = heads(units, size_of_heads(config, config.hidden_size, units), inside, "attention.o_proj")
    ffn = filters(config.intermediate_size, ["mlp.fc1"], "mlp.fc2")
    return in_every_layer(
        "layers", config.num_hidden_layers,
        pre_norm(attention, "layernorm_before", "attention", tuple_of=2), pre_norm(ffn, "layernorm_after", "mlp"),
    )  # fmt: skip


def fixed(config: "ViTConfig") -> dict[str, str | int]:
    """See Family."""
    return {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "pre",
        "input": f"i{config.image_size}p{config.patch_size}", "outputs": outputs_of(config),
    }  # fmt: skip


FAMILIES = (
    Family("vit", {"ViTForImageClassification": "classifier", "ViTModel": ""}, blocks, fixed, (r"^vit\.pooler\.",)),
    Family(
        "deit",
        {
            "DeiTForImageClassification": "classifier",
            "DeiTForImageClassificationWithTeacher": "cls_classifier distillation_classifier",
            "DeiTModel": "",
        },
        blocks, fixed, (r"^deit\.pooler\.",),
    ),
)  # fmt: skip
