"""From a model to its family and its blocks."""

from typing import TYPE_CHECKING

from prune2deploy.errors import InputError
from prune2deploy.models.bert import Bert
from prune2deploy.models.family import KINDS, Block, Family
from prune2deploy.models.vit import ViT

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

FAMILIES: dict[str, Family] = {family.model_type: family for family in (Bert(), ViT())}


def family_of(config: "PretrainedConfig") -> Family:
    """The family that `config` belongs to; raises InputError, naming those supported, when there is none."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise InputError(
            f"models of type {config.model_type!r} are not supported yet; supported are: {', '.join(sorted(FAMILIES))}"
        )
    return family


def blocks_of(model: "PreTrainedModel") -> list[Block]:
    """Every prunable block of a dense model, in forward order."""
    family = family_of(model.config)
    units = family.unit_counts(model.config)
    return [
        Block(index, kind, units[kind], layer.get_submodule(family.branches[kind].consumer).in_features // units[kind])
        for index, layer in enumerate(family.layers(model))
        for kind in KINDS
    ]


def layers_of(model: "PreTrainedModel") -> "nn.ModuleList":
    """The layers of `model` in forward order."""
    return family_of(model.config).layers(model)


def output_projection(model: "PreTrainedModel", block: Block) -> "nn.Linear":
    """The Linear whose input columns are the units of `block` and whose output goes to the residual stream."""
    family = family_of(model.config)
    return family.layers(model)[block.layer].get_submodule(family.branches[block.kind].consumer)
