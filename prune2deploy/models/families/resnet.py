"""ResNet: convolutions; what is cut is the channels that feed the last convolution of a layer.

A bottleneck has a second set of channels, those that feed its 3 × 3 convolution. They stay: the time of that convolution is
a product of both widths, which no sum of blocks predicts.
"""

from typing import TYPE_CHECKING

from prune2deploy.models.block import Block, Cut, StandIn, stages_of
from prune2deploy.models.family import Family, outputs_of

if TYPE_CHECKING:
    from transformers import ResNetConfig


def blocks(config: "ResNetConfig") -> list[Block]:
    """See Family.

    A norm stands between the output and the residual stream, so that the output is aimed at as it is. The first layer of a
    stage has a curve of its own: what comes into it has another shape.
    """
    basic = config.layer_type == "basic"
    last, taps = (1, 9) if basic else (2, 1)
    found: list[Block] = []
    for stage, (depth, width) in enumerate(stages_of(config, "depths", "hidden_sizes")):
        for index in range(depth):
            found.append(Block(
                f"{stage}.{index}.channels", f"encoder.stages.{stage}.layers.{index}", len(found), "channels",
                f"channels.{stage}{'' if index else '.first'}", width if basic else width // 4,
                output=f"layer.{last}.convolution", columns=1, taps=taps,
                cuts=(Cut(f"layer.{last - 1}.convolution"), Cut(f"layer.{last - 1}.normalization")),
                gone=(
                    *(StandIn(f"layer.{step}", "input") for step in range(last - 1)),
                    StandIn(f"layer.{last - 1}", "input"), StandIn(f"layer.{last}.convolution", "full bias"),
                ),
            ))  # fmt: skip
    return found


FAMILIES = (Family(
    model_type="resnet",
    heads={"ResNetForImageClassification": "classifier.1", "ResNetModel": ""},
    blocks=blocks,
    any_size=True,
    fixed=lambda config: {
        "hidden_size": config.hidden_sizes[0], "activation": config.hidden_act, "norm": "batch", "layer": config.layer_type,
        "input": "i" + "x".join(map(str, config.image_size)), "stem": config.embedding_size, "outputs": outputs_of(config),
    },
),)  # fmt: skip
