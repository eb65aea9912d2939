"""DINOv3: ViT's layers, whose outputs are scaled, with rotary positions over patches; the FFN may be gated."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import DINOv3ViTConfig


def blocks(config: "DINOv3ViTConfig") -> list[Block]:
    """See Family."""
    units = config.num_attention_heads
    attention = replace(
        heads(
            units, size_of_heads(config, config.hidden_size, units), [f"attention.{name}_proj" for name in "qkv"],
            "attention.o_proj",
        ),
        attributes=("attention.num_heads",),
    )  # fmt: skip
    names = ["gate_proj", "up_proj"] if config.use_gated_mlp else ["up_proj"]
    ffn = filters(config.intermediate_size, [f"mlp.{name}" for name in names], "mlp.down_proj")
    return in_every_layer(
        "layer", config.num_hidden_layers,
        pre_norm(attention, "norm1", "attention", tuple_of=2, scaled=True), pre_norm(ffn, "norm2", "mlp", scaled=True),
    )  # fmt: skip


FAMILIES = (Family(
    model_type="dinov3_vit",
    heads={"DINOv3ViTModel": ""},
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "pre",
        "input": f"i{config.image_size}p{config.patch_size}r{config.num_register_tokens}",
        "ffn": "gated" if config.use_gated_mlp else "plain", "outputs": outputs_of(config),
    },
),)  # fmt: skip
