"""ConvNeXt: stages of convolutions by channel, each with an FFN on the channels of every place."""

from dataclasses import replace
from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, StandIn, stages_of
from prune2deploy.models.family import Family, outputs_of
from prune2deploy.models.layers import filters

if TYPE_CHECKING:
    from transformers import ConvNextConfig


def blocks(config: "ConvNextConfig") -> list[Block]:
    """See Family; what a block puts out is scaled, so that it is aimed at as it is."""
    found: list[Block] = []
    for stage, (depth, width) in enumerate(stages_of(config, "depths", "hidden_sizes")):
        ffn = filters(4 * width, ["pwconv1"], "pwconv2")
        for index in range(depth):
            found.append(replace(
                ffn, key=f"{stage}.{index}.ffn", root=f"encoder.stages.{stage}.layers.{index}", layer=len(found),
                curve=f"ffn.{stage}",
                gone=(
                    StandIn("dwconv", "input"), StandIn("layernorm", "input"), StandIn("pwconv1", "input"),
                    StandIn("pwconv2", "full bias"),
                ),
            ))  # fmt: skip
    return found


FAMILIES = (Family(
    model_type="convnext",
    heads={"ConvNextForImageClassification": "classifier", "ConvNextModel": ""},
    blocks=blocks,
    fixed=lambda config: {
        "hidden_size": config.hidden_sizes[0], "activation": config.hidden_act, "norm": "pre",
        "input": "i" + "x".join(map(str, config.image_size)) + f"p{config.patch_size}", "outputs": outputs_of(config),
    },
    any_size=True,
),)  # fmt: skip
