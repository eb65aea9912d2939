"""MobileBERT: a layer narrows the residual stream, runs attention and several FFNs on that, and widens it again."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of, text_heads
from prune2deploy.models.layers import filters, heads, in_every_layer, post_norm_inside

if TYPE_CHECKING:
    from transformers import MobileBertConfig


def blocks(config: "MobileBertConfig") -> list[Block]:
    """See Family; every block feeds the narrow stream, so that what it puts out is aimed at as it is."""
    units, narrow = config.num_attention_heads, config.true_hidden_size
    inside = [f"attention.self.{name}" for name in ("query", "key", "value")]
    attention = post_norm_inside(
        heads(units, size_of_heads(config, narrow, units), inside, "attention.output.dense"), "attention.self",
        span="attention", tuple_of=2,
    )  # fmt: skip
    paths = {f"{index}.ffn": f"ffn.{index}." for index in range(config.num_feedforward_networks - 1)} | {"ffn": ""}
    ffns = [
        replace(
            post_norm_inside(
                filters(config.intermediate_size, [f"{before}intermediate.dense"], f"{before}output.dense"),
                f"{before}intermediate",
            ),
            key=key,
        )
        for key, before in paths.items()
    ]
    return in_every_layer(
        "encoder.layer", config.num_hidden_layers, *(replace(block, entry="") for block in (attention, *ffns))
    )


FAMILIES = (Family(
    model_type="mobilebert",
    heads=text_heads("MobileBert", "classifier"),
    blocks=blocks,
    unused=(r"^cls\.",),  # of the pretraining
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": config.normalization_type,
        "narrow": config.true_hidden_size, "shared": str(config.key_query_shared_bottleneck), "outputs": outputs_of(config),
    },
),)  # fmt: skip
