"""T5's encoder: pre-norm without biases, one table of relative positions in the first layer, which hands its bias on."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Given
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, in_every_layer, pre_norm

if TYPE_CHECKING:
    from transformers import T5Config

ATTENTION, FFN = "layer.0.SelfAttention", "layer.1.DenseReluDense"


def blocks(config: "T5Config") -> list[Block]:
    """See Family; the first layer's attention has a curve of its own: it makes the bias of all layers."""
    given = Given(ATTENTION, "position_bias", handed_on=1)
    inside = [f"{ATTENTION}.{name}" for name in "qkv"]
    attention = replace(heads(config.num_heads, config.d_kv, inside, f"{ATTENTION}.o"), given=(given,))
    names = ["wi_0", "wi_1"] if config.is_gated_act else ["wi"]
    ffn = filters(config.d_ff, [f"{FFN}.{name}" for name in names], f"{FFN}.wo")
    first, *rest = in_every_layer(
        "encoder.block", config.num_layers,
        pre_norm(attention, "layer.0.layer_norm", ATTENTION, tuple_of=3), pre_norm(ffn, "layer.1.layer_norm", FFN),
    )  # fmt: skip
    return [replace(first, curve="attention.first", given=(replace(given, made_by="compute_bias"),)), *rest]


FAMILIES = (Family(
    model_type="t5",
    heads={"T5EncoderModel": ""},
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.d_model, "activation": config.dense_act_fn, "norm": "pre",
        "ffn": "gated" if config.is_gated_act else "plain", "outputs": outputs_of(config),
    },
    unused=(r"^(decoder|lm_head)\.",),
    longest=lambda config: None,  # relative positions reach everywhere
),)  # fmt: skip
