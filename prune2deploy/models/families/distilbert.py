"""DistilBERT: BERT's layers under other names, without token types."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of, text_heads
from prune2deploy.models.layers import filters, heads, in_every_layer, post_norm

if TYPE_CHECKING:
    from transformers import DistilBertConfig


def blocks(config: "DistilBertConfig") -> list[Block]:
    """See Family."""
    inside = [f"attention.{name}_lin" for name in "qkv"]
    attention = heads(config.n_heads, size_of_heads(config, config.dim, config.n_heads), inside, "attention.out_lin")
    ffn = filters(config.hidden_dim, ["ffn.lin1"], "ffn.lin2")
    return in_every_layer(
        "transformer.layer", config.n_layers,
        post_norm(attention, "attention", tuple_of=2), post_norm(ffn, "ffn"),
    )  # fmt: skip


FAMILIES = (Family(
    model_type="distilbert",
    heads=text_heads("DistilBert", "classifier", "vocab_projector"),
    blocks=blocks,
    unused=(r"^vocab_",),  # of the pretraining
    fixed=lambda config: {
        "hidden_size": config.dim, "activation": config.activation, "norm": "post", "outputs": outputs_of(config),
    },
),)  # fmt: skip
