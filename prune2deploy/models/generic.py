"""Encoders that there is no file of: their blocks are found by structure, and taken only where shrinking proves exact.

What is found is less than what a file of data says: a block that loses all of its units still computes what feeds its
output projection in PyTorch (an exported graph leaves that out), and recovery aims at what the block itself puts out.
"""

import copy
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prune2deploy.errors import InputError, reason_of
from prune2deploy.models.block import Block, StandIn
from prune2deploy.models.layers import filters, heads, in_every_layer
from prune2deploy.models.switches import SWITCHES

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from prune2deploy.models.family import Family

CLASSES = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM",
    "ForImageClassification", "Model",
)  # fmt: skip
SIDES = {side: re.compile(rf"({side}|{word}|{side}_proj|{side}_lin|{word}_proj|to_{side}|w{side})")
         for side, word in (("q", "query"), ("k", "key"), ("v", "value"))}  # fmt: skip
HEADS = ("num_attention_heads", "n_heads", "num_heads", "encoder_attention_heads")
LENGTHS = ("max_position_embeddings", "max_positions", "n_positions")
EXACT = 1e-4  # of the largest number that comes out
TOKENS = 12
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state")
# options that no layer depends on, or that we set ourselves
ELSEWHERE = {
    "_name_or_path", "architectures", "dtype", "id2label", "image_size", "label2id", "name_or_path", "num_labels",
    "problem_type", "torch_dtype", "transformers_version", *SWITCHES,
}  # fmt: skip
FOUND: "dict[str, Family]" = {}


@dataclass(frozen=True)
class Layer:
    """What a layer has: the paths of its projections from the layer, and numbers that may have to follow a cut."""

    attention: Block | None
    ffn: Block | None
    numbers: tuple[tuple[str, int], ...]

    def variants(self) -> Iterator[tuple[Block, ...]]:
        """Blocks of a layer that may be right, the most complete first."""
        if self.attention is not None:
            units, rows = self.attention.units, self.attention.units * self.attention.columns
            of_heads = tuple(path for path, value in self.numbers if value == units)
            of_rows = tuple(path for path, value in self.numbers if value == rows)
            options = [replace(self.attention, attributes=each) for each in ((), of_heads, (*of_heads, *of_rows), of_rows)]
            distinct = list(dict.fromkeys((each.attributes, each) for each in options))
            if self.ffn is not None:
                yield from ((attention, self.ffn) for _, attention in distinct)
            yield from ((attention,) for _, attention in distinct)
        if self.ffn is not None:
            yield (self.ffn,)


def generic_family(config: "PretrainedConfig") -> "Family":
    """The family of a model that no file is of; raises InputError, saying what does not fit, where nothing can be cut."""
    key = f"{config.architectures[0]} {_digest(config)}"
    if key not in FOUND:
        try:
            _find(config, key)
        except BaseException:
            FOUND.pop(key, None)
            raise
    return FOUND[key]


def _digest(config: "PretrainedConfig") -> str:
    """Of all that the layers may depend on."""
    said = {name: value for name, value in config.to_dict().items() if name not in ELSEWHERE}
    return hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest()[:8]


def _find(config: "PretrainedConfig", key: str) -> None:
    """Put what proves right into `FOUND`, where those who ask for the model's family find it, too."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _made(config)
    path, layers = _stack(model)
    kinds = {tuple(_shapes(layer)) for layer in layers}
    if len(kinds) > 1:
        raise _refusal(config, f"the layers at {path} are not alike")
    layer = _layer(layers[0], config)
    if layer.attention is None and layer.ffn is None:
        raise _refusal(config, f"the layers at {path} have neither query, key and value nor an FFN of a shape that we know")
    prefix = f"{model.base_model_prefix}."
    inner = path.removeprefix(prefix) if hasattr(model, model.base_model_prefix) else path
    worst = ""
    for blocks in layer.variants():
        FOUND[key] = _family(config, model, in_every_layer(inner, len(layers), *blocks))
        if not (worst := _difference(model)):
            return
    raise _refusal(config, f"shrinking its layers at {path} is not exact ({worst})")


def _refusal(config: "PretrainedConfig", reason: str) -> InputError:
    from prune2deploy.models.family import families

    return InputError(
        f"models of type {config.model_type!r} are not supported, and this one cannot be taken apart by itself: {reason}; "
        f"supported are: {', '.join(sorted(families()))}, and encoders whose layers are like those"
    )


def _made(config: "PretrainedConfig") -> "PreTrainedModel":
    """The model with random weights, biases and norms among them, so that a wrong treatment of any shows."""
    import torch
    import transformers

    name = config.architectures[0]
    model_class = getattr(transformers, name, None)
    if model_class is None or not name.endswith(CLASSES):
        raise _refusal(config, f"{name} is none of the classes that work: …{', …'.join(CLASSES)}")
    decodes = name.endswith(("LMHeadModel", "DoubleHeadsModel"))
    if decodes or getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        raise _refusal(config, "it has a decoder")
    made = copy.deepcopy(config)
    made._attn_implementation = "eager"
    try:
        model = model_class(made).eval().requires_grad_(False)
    except Exception as error:  # whatever a model's constructor raises
        raise _refusal(config, f"it cannot be built: {reason_of(error)}") from None
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape))
    return model


def _stack(model: "PreTrainedModel") -> "tuple[str, list[nn.Module]]":
    """The path of the list of layers, and the layers; raises InputError where there is not exactly one."""
    from torch import nn

    lists = [
        (path, list(module)) for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and _linears(module[0])
    ]  # fmt: skip
    outer = [(path, layers) for path, layers in lists if not any(path.startswith(f"{other}.") for other, _ in lists)]
    if len(outer) != 1:
        has = f"{len(outer)} lists of layers, and not one" if outer else "no list of layers with Linear projections"
        raise _refusal(model.config, f"it has {has}")
    return outer[0]


def _shapes(layer: "nn.Module") -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in layer.named_parameters()]


def _linears(layer: "nn.Module") -> "dict[str, nn.Linear]":
    from torch import nn

    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def _layer(layer: "nn.Module", config: "PretrainedConfig") -> Layer:
    """What there is to cut in `layer`."""
    linears = _linears(layer)
    attention, used = _attention(linears, config)
    ffn = _ffn({name: module for name, module in linears.items() if name not in used})
    owners = {owner for name in used for owner in (name.rpartition(".")[0], name.rpartition(".")[0].rpartition(".")[0])}
    numbers = [
        (f"{owner}.{name}" if owner else name, value)
        for owner in sorted(owners) for name, value in vars(layer.get_submodule(owner)).items()
        if isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_")
    ]  # fmt: skip
    return Layer(attention, ffn, tuple(numbers))


def _attention(linears: "dict[str, nn.Linear]", config: "PretrainedConfig") -> tuple[Block | None, set[str]]:
    """The attention of a layer, and the names of what it is made of."""
    sides = {
        side: [name for name in linears if pattern.fullmatch(name.rpartition(".")[2])] for side, pattern in SIDES.items()
    }
    count = next((getattr(config, name) for name in HEADS if isinstance(getattr(config, name, None), int)), 0)
    if any(len(names) != 1 for names in sides.values()) or count < 1:
        return None, set()
    inside = [names[0] for names in sides.values()]
    rows = {linears[name].out_features for name in inside}
    width = linears[inside[0]].in_features
    others = [name for name in linears if name not in inside]
    output = next(
        (name for name in others if linears[name].in_features in rows and linears[name].out_features == width), None
    )
    if len(rows) != 1 or output is None or max(rows) % count:
        return None, set()
    block = heads(count, max(rows) // count, inside, output)
    return replace(block, gone=(StandIn(output, "full bias"),)), {*inside, output}


def _ffn(linears: "dict[str, nn.Linear]") -> Block | None:
    """The FFN among what attention leaves of a layer: one projection down, and one up, or a gate and one up."""
    found = []
    for name, down in linears.items():
        ups = [
            other for other, up in linears.items()
            if other != name and (up.in_features, up.out_features) == (down.out_features, down.in_features)
        ]  # fmt: skip
        if down.in_features != down.out_features and 1 <= len(ups) <= 2 and down.in_features > down.out_features:
            found.append((ups, name, down.in_features))
    if len(found) != 1:
        return None
    [(ups, name, width)] = found
    return replace(filters(width, ups, name), gone=(StandIn(name, "full bias"),))


def _family(config: "PretrainedConfig", model: "PreTrainedModel", blocks: list[Block]) -> "Family":
    from prune2deploy.models.family import Family, outputs_of

    fixed: dict[str, str | int] = {
        "hidden_size": _width(model, blocks), "activation": _activation(config), "norm": "any",
        "configuration": _digest(config),
    }  # fmt: skip
    if model.main_input_name == "pixel_values":
        fixed["input"] = f"i{config.image_size}"
    return Family(
        model_type=config.model_type, heads={config.architectures[0]: " ".join(_heads(model))},
        blocks=lambda _: blocks, fixed=lambda each: {**fixed, "outputs": outputs_of(each)},
        longest=lambda each: next((getattr(each, name) for name in LENGTHS if getattr(each, name, None)), None),
    )  # fmt: skip


def _width(model: "PreTrainedModel", blocks: list[Block]) -> int:
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    return int(model.get_submodule(f"{prefix}{blocks[0].root}.{blocks[0].output}").weight.shape[0])


def _activation(config: "PretrainedConfig") -> str:
    from transformers.activations import ACT2FN

    said = next((getattr(config, name) for name in ("hidden_act", "activation") if getattr(config, name, None)), "gelu")
    return said if said in ACT2FN else "gelu"


def _heads(model: "PreTrainedModel") -> list[str]:
    """The path of the last projection: the last linear layer outside the encoder; none of an encoder alone."""
    prefix = model.base_model_prefix
    if not hasattr(model, prefix):
        return []
    outside = [name for name in _linears(model) if not name.startswith(f"{prefix}.")]
    return outside[-1:]


def _difference(model: "PreTrainedModel") -> str:
    """What is wrong with the blocks that are taken for those of `model`; empty where masked and shrunk say the same."""
    from prune2deploy.models.family import blocks_of
    from prune2deploy.models.plan import Plan
    from prune2deploy.models.signature import signature_of
    from prune2deploy.models.surgery import mask_, shrunk

    inputs = _inputs(model)
    dense, blocks = _said(model, inputs), blocks_of(model)
    for vanishing in (False, True):
        kept = {
            block: [] if vanishing and number % 3 == 0 else list(range(number % 2, block.units, 2)) or [0]
            for number, block in enumerate(blocks)
        }
        plan, masked = Plan.of(signature_of(model.config), kept), copy.deepcopy(model)
        mask_(masked, plan)
        wanted = _said(masked, inputs)
        try:
            got = _said(shrunk(model, plan), inputs)
        except Exception as error:  # whatever a model raises whose parts do not fit each other
            return reason_of(error, 160)
        if not (got - wanted).abs().max() <= EXACT * wanted.abs().max():
            return f"outputs are {float((got - wanted).abs().max()):.2g} apart"
        if not (dense - wanted).abs().max() > 0:
            return "what was left out made no difference"
    return ""


def _inputs(model: "PreTrainedModel") -> "dict[str, torch.Tensor]":
    import torch

    from prune2deploy.models.image_processor import image_shape

    if model.main_input_name == "pixel_values":
        shape = (2, *image_shape(model.config))
        return {"pixel_values": torch.linspace(-1, 1, math.prod(shape)).reshape(shape)}
    ids = torch.arange(2 * TOKENS).reshape(2, TOKENS) * 7 % model.config.vocab_size
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _said(model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> "torch.Tensor":
    """All that comes out, in one row; what padding says is left out where there is a position for each token."""
    import torch

    with torch.no_grad():
        returned = model(**inputs)
    names = [name for name in OUTPUTS if returned.get(name) is not None][:2]
    mask = inputs.get("attention_mask")
    found = []
    for name in names:
        output = returned[name]
        found.append(output[mask.bool()] if mask is not None and output.shape[:2] == mask.shape else output)
    return torch.cat([output.flatten() for output in found])
