"""ModernBERT: pre-norm encoder, fused query, key and value, gated FFN, local attention in most layers."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of, text_heads
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import ModernBertConfig


def blocks(config: "ModernBertConfig") -> list[Block]:
    """See Family; attention that looks at neighbours only has a curve of its own."""
    units = config.num_attention_heads
    attention = heads(units, size_of_heads(config, config.hidden_size, units), ["attn.Wqkv"], "attn.Wo", sections=3)
    ffn = filters(config.intermediate_size, ["mlp.Wi"], "mlp.Wo", sections=2)
    reaches = [kind.removesuffix("_attention") for kind in config.layer_types]
    return [
        replace(block, curve=f"attention.{reaches[block.layer]}") if block.kind == "attention" else block
        for block in in_every_layer(
            "layers", config.num_hidden_layers,
            pre_norm(attention, "attn_norm", "attn", tuple_of=2), pre_norm(ffn, "mlp_norm", "mlp"),
        )
    ]  # fmt: skip


FAMILIES = (Family(
    model_type="modernbert",
    heads=text_heads("ModernBert", "classifier", "decoder", "classifier"),
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_activation, "norm": "pre",
        "window": config.sliding_window, "outputs": outputs_of(config),
    },
),)  # fmt: skip
