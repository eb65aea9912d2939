"""ModernBERT: pre-norm encoder, fused query, key and value, gated FFN, local attention in most layers."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, StandIn, size_of_heads
from prune2deploy.models.family import Family

if TYPE_CHECKING:
    from transformers import ModernBertConfig


def blocks(config: "ModernBertConfig") -> list[Block]:
    """See Family; the norm before a block goes with it."""
    heads = config.num_attention_heads
    size = size_of_heads(config, config.hidden_size, heads)
    found = []
    for layer in range(config.num_hidden_layers):
        root, reach = f"layers.{layer}", config.layer_types[layer].removesuffix("_attention")
        found.append(Block(
            f"{layer}.attention", root, layer, "attention", f"attention.{reach}", heads,
            output="attn.Wo", columns=size, cuts=(Cut("attn.Wqkv", (size,) * 3),),
            gone=(StandIn("attn_norm", "input"), StandIn("attn", "bias", pair=True)), entry="attn_norm", span="attn",
        ))  # fmt: skip
        found.append(Block(
            f"{layer}.ffn", root, layer, "ffn", "ffn", config.intermediate_size,
            output="mlp.Wo", columns=1, cuts=(Cut("mlp.Wi", (1, 1)),),
            gone=(StandIn("mlp_norm", "input"), StandIn("mlp", "bias")), entry="mlp_norm",
        ))  # fmt: skip
    return found


FAMILY = Family(
    model_type="modernbert",
    heads={"ModernBertForSequenceClassification": "classifier"},
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_activation, "norm": "pre",
        "window": config.sliding_window, "outputs": config.num_labels,
    },
)  # fmt: skip
