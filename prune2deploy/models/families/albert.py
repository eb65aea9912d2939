"""ALBERT: BERT with one layer, or a few, that run again and again: cut once, paid for at every call."""

from collections import Counter
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, StandIn, size_of_heads
from prune2deploy.models.family import Family, outputs_of, text_heads

if TYPE_CHECKING:
    from transformers import AlbertConfig


def blocks(config: "AlbertConfig") -> list[Block]:
    """See Family."""
    heads = config.num_attention_heads
    size = size_of_heads(config, config.hidden_size, heads)
    groups = config.num_hidden_groups
    calls = Counter(int(layer / (config.num_hidden_layers / groups)) for layer in range(config.num_hidden_layers))
    found = []
    for group, inner in ((group, inner) for group in range(groups) for inner in range(config.inner_group_num)):
        root, layer = f"encoder.albert_layer_groups.{group}.albert_layers.{inner}", group * config.inner_group_num + inner
        found.append(Block(
            f"{group}.{inner}.attention", root, layer, "attention", "attention", heads,
            output="attention.dense", columns=size,
            cuts=tuple(Cut(f"attention.{name}", (size,)) for name in ("query", "key", "value")),
            gone=(
                *(StandIn(f"attention.{name}", "input") for name in ("query", "key", "value")),
                StandIn("attention.dense", "bias"),
            ),
            entry="attention.query", span="attention", calls=calls[group],
        ))  # fmt: skip
        found.append(Block(
            f"{group}.{inner}.ffn", root, layer, "ffn", "ffn", config.intermediate_size,
            output="ffn_output", columns=1, cuts=(Cut("ffn"),),
            gone=(StandIn("ffn", "input"), StandIn("ffn_output", "bias")), entry="ffn", calls=calls[group],
        ))  # fmt: skip
    return found


FAMILIES = (Family(
    model_type="albert",
    heads=text_heads("Albert", "classifier", "predictions.decoder"),
    blocks=blocks,
    unused=(r"^predictions\.", r"^sop_classifier\."),  # of the pretraining
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "post",
        "embedding_size": config.embedding_size, "outputs": outputs_of(config),
    },
),)  # fmt: skip
