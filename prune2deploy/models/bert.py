"""BERT: post-norm encoder, separate query, key and value projections."""

from typing import TYPE_CHECKING, Any, ClassVar

from prune2deploy.models.family import Branch, Family, Kind, ModelSignature

if TYPE_CHECKING:
    from torch import nn
    from transformers import BertConfig, PreTrainedModel


class Bert(Family):
    """`model_type = "bert"`."""

    model_type = "bert"
    architectures = ("BertForSequenceClassification",)
    branches: ClassVar = {
        "attention": Branch(
            producers=("attention.self.query", "attention.self.key", "attention.self.value"),
            consumer="attention.output.dense",
            entry="attention.self.query",
        ),
        "ffn": Branch(producers=("intermediate.dense",), consumer="output.dense", entry="intermediate.dense"),
    }
    attention = "attention"
    head = "classifier"

    def signature(self, config: "BertConfig") -> ModelSignature:
        """See Family."""
        return ModelSignature(
            family=self.model_type,
            layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_attention_heads,
            head_size=config.hidden_size // config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            activation=config.hidden_act,
            norm="post",
            outputs=config.num_labels,
        )

    def layers(self, model: "PreTrainedModel") -> "nn.ModuleList":
        """See Family."""
        return model.bert.encoder.layer

    def vanish(self, layer: Any, kind: Kind) -> None:
        """Leave LayerNorm(x + bias)."""
        from prune2deploy.models.vanished import BiasOnly, PassThrough

        if kind == "attention":
            layer.attention.self = PassThrough(returns_pair=True)
            layer.attention.output.dense = BiasOnly(layer.attention.output.dense)
        else:
            layer.intermediate = PassThrough()
            layer.output.dense = BiasOnly(layer.output.dense)
