"""Swin: pre-norm stages of growing width, attention in windows that every other layer shifts."""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, StandIn, size_of_heads, stages_of
from prune2deploy.models.family import Family, outputs_of

if TYPE_CHECKING:
    from transformers import SwinConfig


def blocks(config: "SwinConfig") -> list[Block]:
    """See Family.

    Attention puts out windows, not the residual stream's rows, so its output is aimed at as it is. Shifted windows have a
    curve of their own: they cost a mask and two rolls more.
    """
    found: list[Block] = []
    for stage, (depth, heads) in enumerate(stages_of(config, "depths", "num_heads")):
        width = config.embed_dim * 2**stage
        size = size_of_heads(config, width, heads)
        for index in range(depth):
            root, layer = f"encoder.layers.{stage}.blocks.{index}", len(found) // 2
            found.append(Block(
                f"{stage}.{index}.attention", root, layer, "attention",
                f"attention.{stage}{'.shifted' if index % 2 else ''}", heads,
                output="attention.o_proj", columns=size,
                cuts=(
                    *(Cut(f"attention.{name}_proj", (size,)) for name in "qkv"),
                    Cut("attention.relative_position_bias.relative_position_bias_table", axis=1),
                ),
                gone=(StandIn("layernorm_before", "input"), StandIn("attention", "full bias", tuple_of=2)),
                span="attention",
            ))  # fmt: skip
            found.append(Block(
                f"{stage}.{index}.ffn", root, layer, "ffn", f"ffn.{stage}", int(config.mlp_ratio * width),
                output="mlp.fc2", columns=1, cuts=(Cut("mlp.fc1"),),
                gone=(StandIn("layernorm_after", "input"), StandIn("mlp", "bias")), entry="layernorm_after",
            ))  # fmt: skip
    return found


FAMILIES = (Family(
    model_type="swin",
    heads={"SwinForImageClassification": "classifier", "SwinModel": ""},
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.embed_dim, "activation": config.hidden_act, "norm": "pre",
        "input": f"i{config.image_size}p{config.patch_size}w{config.window_size}", "outputs": outputs_of(config),
    },
),)  # fmt: skip
