"""BERT: post-norm encoder, separate query, key and value projections."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, StandIn, size_of_heads
from prune2deploy.models.family import Family

if TYPE_CHECKING:
    from transformers import BertConfig


def blocks(config: "BertConfig") -> list[Block]:
    """See Family."""
    heads = config.num_attention_heads
    size = size_of_heads(config, config.hidden_size, heads)
    found = []
    for layer in range(config.num_hidden_layers):
        root = f"encoder.layer.{layer}"
        found.append(Block(
            f"{layer}.attention", root, layer, "attention", "attention", heads,
            output="attention.output.dense", columns=size,
            cuts=tuple(Cut(f"attention.self.{name}", (size,)) for name in ("query", "key", "value")),
            gone=(StandIn("attention.self", "input", pair=True), StandIn("attention.output.dense", "bias")),
            entry="attention.self.query", span="attention",
        ))  # fmt: skip
        found.append(Block(
            f"{layer}.ffn", root, layer, "ffn", "ffn", config.intermediate_size,
            output="output.dense", columns=1, cuts=(Cut("intermediate.dense"),),
            gone=(StandIn("intermediate", "input"), StandIn("output.dense", "bias")), entry="intermediate.dense",
        ))  # fmt: skip
    return found


FAMILY = Family(
    model_type="bert",
    heads={"BertForSequenceClassification": "classifier"},
    blocks=blocks,
    unused=(r"^cls\.(predictions|seq_relationship)\.",),  # of the pretraining
    fixed=lambda config: {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "post", "outputs": config.num_labels,
    },
)  # fmt: skip
