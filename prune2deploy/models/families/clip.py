"""CLIP and SigLIP: pre-norm encoders of images and of texts."""

from typing import TYPE_CHECKING, Any

from prune2deploy.models.block import Block, size_of_heads
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import CLIPTextConfig


def encoder_blocks(config: Any, path: str) -> list[Block]:
    """The blocks of the one encoder at `path`, which `config` is of."""
    units = config.num_attention_heads
    attention = heads(
        units, size_of_heads(config, config.hidden_size, units), [f"self_attn.{name}_proj" for name in "qkv"],
        "self_attn.out_proj",
    )  # fmt: skip
    ffn = filters(config.intermediate_size, ["mlp.fc1"], "mlp.fc2")
    return in_every_layer(
        path, config.num_hidden_layers,
        pre_norm(attention, "layer_norm1", "self_attn", tuple_of=2), pre_norm(ffn, "layer_norm2", "mlp"),
    )  # fmt: skip


def vision_blocks(config: Any) -> list[Block]:
    """See Family; of a configuration of both encoders, or of that of images alone."""
    both = hasattr(config, "vision_config")
    return encoder_blocks(getattr(config, "vision_config", config), f"{'vision_model.' if both else ''}encoder.layers")


def vision_fixed(config: Any) -> dict[str, str | int]:
    """See Family."""
    vision = getattr(config, "vision_config", config)
    return {
        "hidden_size": vision.hidden_size, "activation": vision.hidden_act, "norm": "pre",
        "input": f"i{vision.image_size}p{vision.patch_size}", "outputs": outputs_of(config),
    }  # fmt: skip


def text_blocks(config: "CLIPTextConfig") -> list[Block]:
    """See Family."""
    return encoder_blocks(config, "encoder.layers")


def text_fixed(config: "CLIPTextConfig") -> dict[str, str | int]:
    """See Family."""
    return {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "pre", "outputs": outputs_of(config)
    }


OTHERS = (r"^text_model\.", r"^(text|visual)_projection\.", r"^logit_(scale|bias)$", r"^vision_model\.head\.")
FAMILIES = (
    Family("clip", {"CLIPForImageClassification": "classifier"}, vision_blocks, vision_fixed, OTHERS),
    Family("siglip", {"SiglipForImageClassification": "classifier"}, vision_blocks, vision_fixed, OTHERS),
    Family(
        "clip_text_model", {"CLIPTextModel": "", "CLIPTextModelWithProjection": ""}, text_blocks, text_fixed,
        pools_itself=True,
    ),
    Family(
        "siglip_text_model", {"SiglipTextModel": ""}, text_blocks, text_fixed, pools_itself=True, always_full=True,
    ),
    Family(
        "clip_vision_model", {"CLIPVisionModel": "", "CLIPVisionModelWithProjection": ""}, vision_blocks, vision_fixed,
    ),
    Family("siglip_vision_model", {"SiglipVisionModel": ""}, vision_blocks, vision_fixed),
)  # fmt: skip
