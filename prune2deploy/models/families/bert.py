"""BERT: post-norm encoder, separate query, key and value projections."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of, text_heads
from prune2deploy.models.layers import filters, heads, in_every_layer, post_norm_inside

if TYPE_CHECKING:
    from transformers import BertConfig


def blocks(config: "BertConfig") -> list[Block]:
    """See Family."""
    units = config.num_attention_heads
    inside = [f"attention.self.{name}" for name in ("query", "key", "value")]
    attention = heads(units, size_of_heads(config, config.hidden_size, units), inside, "attention.output.dense")
    ffn = filters(config.intermediate_size, ["intermediate.dense"], "output.dense")
    return in_every_layer(
        "encoder.layer", config.num_hidden_layers,
        post_norm_inside(attention, "attention.self", span="attention", tuple_of=2), post_norm_inside(ffn, "intermediate"),
    )  # fmt: skip


def fixed(config: "BertConfig") -> dict[str, str | int]:
    """See Family."""
    return {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "post", "outputs": outputs_of(config),
    }  # fmt: skip


BERTS_LM = "cls.predictions.decoder"
PRETRAINING = (r"^cls\.(predictions|seq_relationship)\.",)
FAMILIES = (Family("bert", text_heads("Bert", "classifier", BERTS_LM), blocks, fixed, PRETRAINING),)
