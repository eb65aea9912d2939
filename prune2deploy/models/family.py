"""Families: a file of data for those of one structure, found by being in `models/families/`."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prune2deploy.errors import InputError
from prune2deploy.models.block import Block

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


LABELLED = (
    "ForSequenceClassification", "ForTokenClassification", "ForImageClassification", "ForImageClassificationWithTeacher",
    "ForSemanticSegmentation",
)  # fmt: skip
LANGUAGE_MODELS = ("ForCausalLM", "ForMaskedLM")
ENCODERS = ("Model", "ModelWithProjection")
CHOOSES = "ForMultipleChoice"
IMPOSSIBLE = {
    "convnextv2": "its response normalisation takes the mean over all filters, those that are left out too; ConvNeXt works",
}


@dataclass(frozen=True)
class Family:
    """One family of models (a `model_type` of transformers)."""

    model_type: str
    heads: Mapping[str, str]  # the classes that are known: each with the paths of its last projections, if it has any
    blocks: Callable[[Any], list[Block]]  # of a configuration, in forward order; roots are paths in the base model
    fixed: Callable[[Any], dict[str, str | int]]  # what latency depends on beside the blocks: `hidden_size` and more
    unused: tuple[str, ...] = ()  # patterns of weights that checkpoints have beside a classifier's, and that it does not use
    may_lack_segments: bool = False  # whether a model without an embedding of segments takes no notice of segment ids
    always_full: bool = False  # whether texts are padded as far as the model goes, and padding counts like any token
    pools_itself: bool = False  # whether an encoder of texts has a vector of its own, and needs no pooling
    any_size: bool = False  # of images: the model's image processor says what comes
    longest: Callable[[Any], int | None] = lambda config: getattr(config, "max_position_embeddings", None)


def text_heads(
    name: str, classifier: str, masked_lm: str | None = None, spans: str | None = "qa_outputs",
    choices: str | None = "classifier",
) -> dict[str, str]:
    """The classes for texts that begin with `name`, each with its last projection.

    `classifier`: that of sequence classification; `masked_lm`, `spans`, `choices`: of the masked language model, of
    question answering and of multiple choice, None where there is none that works.
    """
    heads = {
        "ForSequenceClassification": classifier, "ForTokenClassification": "classifier", "ForQuestionAnswering": spans,
        "ForMultipleChoice": choices, "ForMaskedLM": masked_lm, "Model": "",
    }  # fmt: skip
    return {f"{name}{suffix}": path for suffix, path in heads.items() if path is not None}


@functools.cache
def families() -> dict[str, Family]:
    """Every family that there is a file of, by its model type."""
    from prune2deploy.models import families as package

    names = sorted(entry.name for entry in pkgutil.iter_modules(package.__path__))
    found = [importlib.import_module(f"{package.__name__}.{name}").FAMILIES for name in names]
    return {family.model_type: family for families in found for family in families}


def family_of(config: "PretrainedConfig") -> Family:
    """The family that `config` belongs to: that of its type, or what is found by structure; raises InputError."""
    if known := families().get(config.model_type):
        return known
    from prune2deploy.models.generic import generic_family

    return generic_family(config)


def refuse_impossible(model_type: str) -> None:
    """Raise InputError where models of that type cannot be pruned."""
    if reason := IMPOSSIBLE.get(model_type):
        raise InputError(f"models of type {model_type!r} cannot be pruned so: {reason}")


def unsupported(model_type: str) -> InputError:
    """What to raise for a type that nobody knows."""
    supported = ", ".join(sorted(families()))
    return InputError(f"models of type {model_type[:80]!r} are not supported yet; supported are: {supported}")


def blocks_of(model: "PreTrainedModel") -> list[Block]:
    """Every prunable block of a dense model, in forward order; roots are paths in `model`."""
    prefix = model.base_model_prefix
    blocks = family_of(model.config).blocks(model.config)
    if not hasattr(model, prefix):  # a base model without a head
        return blocks
    return [replace(block, root=f"{prefix}.{block.root}") for block in blocks]


def class_of(config: "PretrainedConfig") -> str:
    """The name of the model's class."""
    return (config.architectures or ["none"])[0]


def takes_images(config: "PretrainedConfig") -> bool:
    """Whether the model's input is an image."""
    return "input" in family_of(config).fixed(config)


def shape_of_one(config: "PretrainedConfig", tokens: int) -> tuple[int, ...]:
    """The shape of a batch of one text: [batch, tokens], or, to a model that chooses, [batch, choices, tokens]."""
    return (1, 1, tokens) if class_of(config).endswith(CHOOSES) else (1, tokens)


def has_labels(config: "PretrainedConfig") -> bool:
    """Whether the outputs of the head have names."""
    return class_of(config).endswith(LABELLED)


def outputs_of(config: "PretrainedConfig") -> int | str:
    """What latency depends on of the head: how many numbers it gives, and whether it does at every position."""
    name = class_of(config)
    if name.endswith(LANGUAGE_MODELS):
        return f"{config.vocab_size}each"
    if name.endswith("ForTokenClassification"):
        return f"{config.num_labels}each"
    if name.endswith("ForQuestionAnswering"):
        return "2each"
    if name.endswith(CHOOSES):
        return "1ofchoices"
    return "vector" if name.endswith(ENCODERS) else config.num_labels


def roots_of(blocks: list[Block]) -> list[str]:
    """The layers of `blocks`, in forward order."""
    return list(dict.fromkeys(block.root for block in blocks))


def layer_of(model: "PreTrainedModel", block: Block) -> "nn.Module":
    """The layer that `block` is in."""
    return model.get_submodule(block.root)


def heads_of(model: "PreTrainedModel") -> "list[nn.Module]":
    """The last projection of `model`, or several whose outputs it averages; none of a model without a head."""
    return [model.get_submodule(path) for path in family_of(model.config).heads[model.config.architectures[0]].split()]
