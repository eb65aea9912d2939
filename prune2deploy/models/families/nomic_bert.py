"""Nomic BERT: post-norm encoder with rotary positions and a gated FFN."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.families.bert import BERTS_LM, fixed
from prune2deploy.models.family import Family, text_heads
from prune2deploy.models.layers import filters, heads, in_every_layer, post_norm

if TYPE_CHECKING:
    from transformers import NomicBertConfig


def blocks(config: "NomicBertConfig") -> list[Block]:
    """See Family."""
    units = config.num_attention_heads
    inside = [f"self_attn.{name}_proj" for name in "qkv"]
    attention = heads(units, size_of_heads(config, config.hidden_size, units), inside, "self_attn.o_proj")
    ffn = filters(config.intermediate_size, ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")
    return in_every_layer(
        "layers", config.num_hidden_layers, post_norm(attention, "self_attn", tuple_of=2), post_norm(ffn, "mlp")
    )


FAMILIES = (Family(
    model_type="nomic_bert",
    heads=text_heads("NomicBert", "classifier", BERTS_LM, spans=None, choices=None),
    blocks=blocks,
    unused=(r"^cls\.",),  # of the pretraining
    fixed=fixed,
),)  # fmt: skip
