"""Llama: pre-norm decoder, query heads that share keys and values in groups, gated FFN. A unit is a whole group."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, StandIn
from prune2deploy.models.family import Family, outputs_of

if TYPE_CHECKING:
    from transformers import LlamaConfig


def blocks(config: "LlamaConfig") -> list[Block]:
    """See Family; the norm before a block goes with it."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if min(heads, groups) < 1 or heads % groups:
        raise ValueError(f"{heads} query heads and {groups} key/value heads: the former must be a multiple of the latter")
    size = config.head_dim or config.hidden_size // heads
    queries = size * heads // groups
    found = []
    for layer in range(config.num_hidden_layers):
        root = f"layers.{layer}"
        found.append(Block(
            f"{layer}.attention", root, layer, "attention", "attention", groups,
            output="self_attn.o_proj", columns=queries,
            cuts=(
                Cut("self_attn.q_proj", (queries,)), Cut("self_attn.k_proj", (size,)), Cut("self_attn.v_proj", (size,)),
            ),
            gone=(StandIn("input_layernorm", "input"), StandIn("self_attn", "bias", pair=True)),
            entry="input_layernorm", span="self_attn",
        ))  # fmt: skip
        found.append(Block(
            f"{layer}.ffn", root, layer, "ffn", "ffn", config.intermediate_size,
            output="mlp.down_proj", columns=1, cuts=(Cut("mlp.gate_proj"), Cut("mlp.up_proj")),
            gone=(StandIn("post_attention_layernorm", "input"), StandIn("mlp", "bias")),
            entry="post_attention_layernorm",
        ))  # fmt: skip
    return found


FAMILY = Family(
    model_type="llama",
    heads={"LlamaForSequenceClassification": "score", "LlamaForCausalLM": "lm_head"},
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "pre",
        "group": config.num_attention_heads // config.num_key_value_heads, "outputs": outputs_of(config),
    },
)  # fmt: skip
