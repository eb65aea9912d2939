"""ViT and DeiT: pre-norm encoder over image patches."""

from typing import TYPE_CHECKING, Any, ClassVar

from prune2deploy.models.family import Branch, Family, Kind, ModelSignature

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, ViTConfig


class ViT(Family):
    """`model_type = "vit"`."""

    model_type = "vit"
    architectures = ("ViTForImageClassification",)
    branches: ClassVar = {
        "attention": Branch(
            producers=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            consumer="attention.o_proj",
            entry="layernorm_before",
        ),
        "ffn": Branch(producers=("mlp.fc1",), consumer="mlp.fc2", entry="layernorm_after"),
    }
    attention = "attention"
    head = "classifier"

    def signature(self, config: "ViTConfig") -> ModelSignature:
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
            norm="pre",
            input_shape=f"i{config.image_size}p{config.patch_size}",
            outputs=config.num_labels,
        )

    def layers(self, model: "PreTrainedModel") -> "nn.ModuleList":
        """See Family."""
        return model.vit.layers

    def vanish(self, layer: Any, kind: Kind) -> None:
        """Leave x + bias; the norm before the block goes with it."""
        from torch import nn

        from prune2deploy.models.vanished import BiasOnly

        if kind == "attention":
            layer.layernorm_before = nn.Identity()
            layer.attention = BiasOnly(layer.attention.o_proj, returns_pair=True)
        else:
            layer.layernorm_after = nn.Identity()
            layer.mlp = BiasOnly(layer.mlp.fc2)
