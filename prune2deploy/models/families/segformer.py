"""SegFormer: pre-norm stages of growing width, keys and values from fewer places, a convolution by channel in the FFN."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, size_of_heads, stages_of
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters, heads, pre_norm

if TYPE_CHECKING:
    from transformers import SegformerConfig


def blocks(config: "SegformerConfig") -> list[Block]:
    """See Family; what makes fewer places of keys and values is not cut."""
    found: list[Block] = []
    stages = stages_of(config, "depths", "num_attention_heads", "hidden_sizes", "mlp_ratios")
    for stage, (depth, units, width, ratio) in enumerate(stages):
        size = size_of_heads(config, width, units)
        attention = heads(units, size, [f"attention.{name}_proj" for name in "qkv"], "attention.o_proj")
        ffn = filters(width * ratio, ["mlp.fc1"], "mlp.fc2")
        ffn = replace(
            ffn, cuts=(*ffn.cuts, Cut("mlp.dwconv.dwconv")),
            attributes=("mlp.dwconv.dwconv.groups", "mlp.dwconv.dwconv.in_channels"),
        )  # fmt: skip
        made = pre_norm(attention, "layernorm_before", "attention", tuple_of=2), pre_norm(ffn, "layernorm_after", "mlp")
        for index in range(depth):
            layer = len(found) // 2
            found += [
                replace(
                    block, key=f"{stage}.{index}.{block.kind}", root=f"stages.{stage}.blocks.{index}", layer=layer,
                    curve=f"{block.kind}.{stage}",
                )
                for block in made
            ]  # fmt: skip
    return found


FAMILIES = (Family(
    model_type="segformer",
    heads={
        "SegformerForImageClassification": "classifier", "SegformerForSemanticSegmentation": "decode_head.classifier",
    },
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.hidden_sizes[0], "activation": config.hidden_act, "norm": "pre",
        "input": "i" + "x".join(map(str, config.image_size)), "decoder": config.decoder_hidden_size,
        "reduction": "+".join(map(str, config.sr_ratios)), "outputs": outputs_of(config),
    },
    any_size=True,
),)  # fmt: skip
