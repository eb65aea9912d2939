"""DeBERTa: BERT's layers, whose attention looks at relative positions through projections of their own."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, size_of_heads
from prune2deploy.models.families.bert import BERTS_LM
from prune2deploy.models.family import Family, class_of, outputs_of, text_heads
from prune2deploy.models.layers import filters, heads, in_every_layer, post_norm_inside

if TYPE_CHECKING:
    from transformers import DebertaConfig, DebertaV2Config


def blocks(config: "DebertaConfig") -> list[Block]:
    """See Family; query, key and value of one head lie side by side in one projection."""
    if getattr(config, "talking_head", False):
        raise ValueError("talking_head mixes the heads of a layer: none can be left out")
    units = config.num_attention_heads
    size = size_of_heads(config, config.hidden_size, units)
    positions = {"c2p": "pos_proj", "p2c": "pos_q_proj"} if config.relative_attention else {}
    cuts = [
        Cut("attention.self.in_proj", (3 * size,)),
        *(Cut(f"attention.self.{bias}", (size,)) for bias in ("q_bias", "v_bias")),
        *(Cut(f"attention.self.{path}", (size,)) for kind, path in positions.items() if kind in config.pos_att_type),
    ]
    return with_attention(config, replace(heads(units, size, [], "attention.output.dense"), cuts=tuple(cuts)))


def blocks_of_v2(config: "DebertaV2Config") -> list[Block]:
    """See Family; with `share_att_key`, query and key are called a second time in a layer, on the relative positions."""
    units = config.num_attention_heads
    size = size_of_heads(config, config.hidden_size, units)
    shared = getattr(config, "share_att_key", False)
    positions = {"c2p": "pos_key_proj", "p2c": "pos_query_proj"} if config.relative_attention and not shared else {}
    names = ["query_proj", "key_proj", "value_proj"]
    names += [path for kind, path in positions.items() if kind in (config.pos_att_type or [])]
    inside = [f"attention.self.{name}" for name in names]
    return with_attention(config, heads(units, size, inside, "attention.output.dense"))


def with_attention(config: "DebertaConfig | DebertaV2Config", attention: Block) -> list[Block]:
    """Every block of a model whose layers have this `attention`."""
    if class_of(config).endswith("ForMaskedLM") and not getattr(config, "legacy", True):
        raise ValueError("legacy is false, and only the masked language model with legacy's head works")
    attention = replace(
        post_norm_inside(attention, "attention.self", span="attention", tuple_of=2), entry="attention.self",
        attributes=("attention.self.num_attention_heads",),
    )  # fmt: skip
    ffn = filters(config.intermediate_size, ["intermediate.dense"], "output.dense")
    return in_every_layer("encoder.layer", config.num_hidden_layers, attention, post_norm_inside(ffn, "intermediate"))


def fixed(config: "DebertaConfig | DebertaV2Config") -> dict[str, str | int]:
    """See Family."""
    positions = "+".join(config.pos_att_type or []) if config.relative_attention else "absolute"
    return {
        "hidden_size": config.hidden_size, "activation": config.hidden_act, "norm": "post", "positions": positions,
        "reach": getattr(config, "position_buckets", -1), "convolution": getattr(config, "conv_kernel_size", 0),
        "outputs": outputs_of(config),
    }  # fmt: skip


PRETRAINING = (r"^(lm_predictions|mask_predictions|cls)\.",)
FAMILIES = (
    Family(
        "deberta", text_heads("Deberta", "classifier", BERTS_LM, choices=None), blocks, fixed, PRETRAINING,
        may_lack_segments=True,
    ),
    Family(
        "deberta-v2", text_heads("DebertaV2", "classifier", BERTS_LM), blocks_of_v2, fixed, PRETRAINING,
        may_lack_segments=True,
    ),
)  # fmt: skip
