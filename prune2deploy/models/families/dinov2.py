"""DINOv2, with registers or without: ViT's layers, whose outputs are scaled; the FFN may be gated."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import Dinov2Config


def blocks(config: "Dinov2Config") -> list[Block]:
    """See Family."""
    units, width = config.num_attention_heads, int(config.hidden_size * config.mlp_ratio)
    attention = heads(
        units, size_of_heads(config, config.hidden_size, units), [f"attention.{name}_proj" for name in "qkv"],
        "attention.o_proj",
    )  # fmt: skip
    if config.use_swiglu_ffn:  # two thirds of the width, rounded up to a multiple of 8
        ffn = filters((int(width * 2 / 3) + 7) // 8 * 8, ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")
    else:
        ffn = filters(width, ["mlp.fc1"], "mlp.fc2")
    return in_every_layer(
        "encoder.layer", config.num_hidden_layers,
        pre_norm(attention, "norm1", "attention", tuple_of=2, scaled=True), pre_norm(ffn, "norm2", "mlp", scaled=True),
    )  # fmt: skip


def fixed(config: "Dinov2Config") -> dict[str, str | int]:
    """See Family."""
    registers = getattr(config, "num_register_tokens", 0)
    return {
        "hidden_size": config.hidden_size, "activation": "silu" if config.use_swiglu_ffn else config.hidden_act,
        "norm": "pre", "input": f"i{config.image_size}p{config.patch_size}" + (f"r{registers}" if registers else ""),
        "ffn": "gated" if config.use_swiglu_ffn else "plain", "outputs": outputs_of(config),
    }  # fmt: skip


FAMILIES = (
    Family("dinov2", {"Dinov2ForImageClassification": "classifier", "Dinov2Model": ""}, blocks, fixed),
    Family(
        "dinov2_with_registers",
        {"Dinov2WithRegistersForImageClassification": "classifier", "Dinov2WithRegistersModel": ""}, blocks, fixed,
    ),
)  # fmt: skip
