"""From a model to its family and its blocks."""

from typing import TYPE_CHECKING, cast

from prune2deploy.errors import InputError
from prune2deploy.models.bert import Bert
from prune2deploy.models.family import KINDS, Block, Family, Kind, ModelSignature
from prune2deploy.models.vit import ViT

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

FAMILIES: dict[str, Family] = {family.model_type: family for family in (Bert(), ViT())}


def family_of(config: "PretrainedConfig") -> Family:
    """The family that `config` belongs to."""
    return family_named(config.model_type)


def family_named(model_type: str) -> Family:
    """The family of that type; raises InputError, naming those supported, when there is none."""
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise InputError(f"models of type {model_type[:80]!r} are not supported yet; supported are: {supported}")
    return FAMILIES[model_type]


def blocks_of(model: "PreTrainedModel") -> list[Block]:
    """Every prunable block of a dense model, in forward order."""
    return blocks_in(family_of(model.config).signature(model.config))


def layers_of(model: "PreTrainedModel") -> "nn.ModuleList":
    """The layers of `model` in forward order."""
    return family_of(model.config).layers(model)


def output_projection(model: "PreTrainedModel", block: Block) -> "nn.Linear":
    """The Linear whose input columns are the units of `block` and whose output goes to the residual stream."""
    family = family_of(model.config)
    consumer = family.branches[block.kind].consumer
    return cast("nn.Linear", family.layers(model)[block.layer].get_submodule(consumer))


def head_of(model: "PreTrainedModel") -> "nn.Linear":
    """The Linear that puts out the logits."""
    return cast("nn.Linear", model.get_submodule(family_of(model.config).head))


def blocks_in(signature: ModelSignature) -> list[Block]:
    """Every prunable block of a dense model with this signature, in forward order."""
    sizes: dict[Kind, tuple[int, int]] = {
        "attention": (signature.kv_heads, signature.head_size * signature.heads // signature.kv_heads),
        "ffn": (signature.intermediate_size, 1),
    }
    return [Block(layer, kind, *sizes[kind]) for layer in range(signature.layers) for kind in KINDS]
