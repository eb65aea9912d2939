"""Llama: pre-norm decoder, query heads that share keys and values in groups, gated FFN. A unit is a whole group."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import LlamaConfig


def blocks(config: "LlamaConfig") -> list[Block]:
    """See Family."""
    query_heads, groups = config.num_attention_heads, config.num_key_value_heads
    if min(query_heads, groups) < 1 or query_heads % groups:
        raise ValueError(
            f"{query_heads} query heads and {groups} key/value heads: the former must be a multiple of the latter"
        )
    size = config.head_dim or config.hidden_size // query_heads
    queries = size * query_heads // groups
    attention = replace(
        heads(groups, queries, ["self_attn.q_proj"], "self_attn.o_proj"),
        cuts=(Cut("self_attn.q_proj", (queries,)), Cut("self_attn.k_proj", (size,)), Cut("self_attn.v_proj", (size,))),
    )
    ffn = filters(config.intermediate_size, ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")
    return in_every_layer(
        "layers", config.num_hidden_layers,
        pre_norm(attention, "input_layernorm", "self_attn", tuple_of=2), pre_norm(ffn, "post_attention_layernorm", "mlp"),
    )  # fmt: skip


FAMILIES = (Family(
    model_type="llama",
    heads={"LlamaForSequenceClassification": "score", "LlamaForCausalLM": "lm_head"},
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "pre",
        "group": config.num_attention_heads // config.num_key_value_heads, "outputs": outputs_of(config),
    },
),)  # fmt: skip
