"""BEiT: ViT's layers, whose outputs are scaled, with tables of relative positions in every layer or one for all."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, Given, size_of_heads
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import BeitConfig


def blocks(config: "BeitConfig") -> list[Block]:
    """See Family; a table for all layers comes to each as its attention mask, for all heads."""
    units, scaled = config.num_attention_heads, config.layer_scale_init_value > 0
    attention = heads(
        units, size_of_heads(config, config.hidden_size, units), [f"attention.{name}_proj" for name in "qkv"],
        "attention.o_proj",
    )  # fmt: skip
    if config.use_relative_position_bias:
        table = Cut("relative_position_bias.relative_position_bias_table", axis=1)
        attention = replace(attention, cuts=(*attention.cuts, table))
    if config.use_shared_relative_position_bias:
        attention = replace(attention, given=(Given("attention", "attention_mask"),))
    ffn = filters(config.intermediate_size, ["mlp.fc1"], "mlp.fc2")
    return in_every_layer(
        "layers", config.num_hidden_layers,
        pre_norm(attention, "layernorm_before", "attention", tuple_of=2, scaled=scaled),
        pre_norm(ffn, "layernorm_after", "mlp", scaled=scaled),
    )  # fmt: skip


def positions(config: "BeitConfig") -> str:
    """What tables of relative positions there are."""
    shared, own = config.use_shared_relative_position_bias, config.use_relative_position_bias
    return "+".join(name for name, there in (("shared", shared), ("own", own)) if there) or "none"


FAMILIES = (Family(
    model_type="beit",
    heads={"BeitForImageClassification": "classifier", "BeitModel": ""},
    blocks=blocks,
    unused=(r"^lm_head\.",),
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "pre", "positions": positions(config),
        "input": f"i{config.image_size}p{config.patch_size}", "outputs": outputs_of(config),
    },
),)  # fmt: skip
