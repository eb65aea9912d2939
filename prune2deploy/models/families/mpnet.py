"""MPNet: BERT's layers with one table of relative positions, which the encoder hands to every layer for all heads."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Given, size_of_heads
from prune2deploy.models.families.bert import fixed
from prune2deploy.models.family import Family, text_heads
from prune2deploy.models.layers import filters, heads, in_every_layer, post_norm, post_norm_inside

if TYPE_CHECKING:
    from transformers import MPNetConfig


def blocks(config: "MPNetConfig") -> list[Block]:
    """See Family."""
    units = config.num_attention_heads
    inside = [f"attention.attn.{name}" for name in "qkv"]
    attention = replace(
        heads(units, size_of_heads(config, config.hidden_size, units), inside, "attention.attn.o"),
        attributes=("attention.attn.all_head_size",), given=(Given("attention.attn", "position_bias"),),
    )  # fmt: skip
    ffn = filters(config.intermediate_size, ["intermediate.dense"], "output.dense")
    return in_every_layer(
        "encoder.layer", config.num_hidden_layers,
        post_norm(attention, "attention.attn", tuple_of=1), post_norm_inside(ffn, "intermediate"),
    )  # fmt: skip


FAMILIES = (Family(
    model_type="mpnet",
    heads=text_heads("MPNet", "classifier.out_proj", "lm_head.decoder"),
    blocks=blocks,
    unused=(r"^lm_head\.", r"^mpnet\.pooler\."),
    fixed=fixed,
    longest=lambda config: config.max_position_embeddings - 2,  # counted from behind padding's number, always 1
),)  # fmt: skip
