"""Whether a checkpoint is wholly what its configuration describes: every weight is used, and nothing beside it counts."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.errors import InputError
from prune2deploy.files import refuse_missing
from prune2deploy.models.family import family_of, heads_of
from prune2deploy.models.sentence_modules import MODULES_FILE, SUPPORTED, modules_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Buffers that no answer depends on: they are computed anew, or count what training did.
HARMLESS = r"(^|\.)position_ids$|(^|\.)embeddings\.(token_type_ids|mask_token)$|\.num_batches_tracked$|(^|\.)inv_freq$"
POOLER = r"^(\w+\.)?pooler\."  # of a model without a head: what it is not asked for may be there or not
VARIANT = re.compile(r"model\.[\w-]+(-\d{5}-of-\d{5})?\.safetensors")  # the same weights in another precision
PREFIXES = {
    "module.": "torch's DataParallel: save model.module",
    "_orig_mod.": "torch.compile: save model._orig_mod",
    "model._orig_mod.": "torch.compile: save model._orig_mod",
    "_forward_module.": "a training framework: save the model inside it with save_pretrained",
    "_fsdp_wrapped_module.": "FSDP: save the full state dict",
    "base_model.model.": "PEFT: merge the adapter (merge_and_unload) and save that",
    "model.": "a training framework: save the model inside it with save_pretrained",
    "student.": "a distillation trainer: save the student with save_pretrained",
    "net.": "a training framework: save the model inside it with save_pretrained",
}
MARKS = {
    r"\.lora_[AB]\b|\.lora_embedding_|\.modules_to_save\.|\.base_layer\.|\.adapters?\.": (
        "they are those of an adapter that is not merged: merge it (merge_and_unload) and save the result"
    ),
    r"\.(weight|bias)_(orig|mask)$": "torch's pruning is not made permanent: call prune.remove, then save",
    r"\.(weight_[gv]|parametrizations\..*)$": "a parametrisation is not removed: call remove_parametrizations, then save",
    r"\.(SCB|qweight|qzeros|scales|absmax|weight_scale(_inv)?|quant_state.*|weight_format)$": (
        "they are quantised: give the model from before"
    ),
}
ATTENTION = re.compile(r"\.(query|key|value|[qkv]_proj)\.(weight|bias)$|attention\.output\.dense\.weight$|\.o_proj\.weight$")
# Files that change what the weights beside them compute, by name.
CHANGING = {
    "adapter_config.json": "an adapter (PEFT): merge it (merge_and_unload) and save the result",
    "adapter_model.safetensors": "an adapter (PEFT): merge it (merge_and_unload) and save the result",
    "head_config.json": "a head of its own (adapters): save the model with save_pretrained",
    "model_head.pkl": "a head of its own (SetFit), which is a pickle and is never loaded",
    "model_head.safetensors": "a head of its own (SetFit)",
}
KNOWN_MODULES = (*SUPPORTED, "CrossEncoder")  # of sentence-transformers
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")  # the likeliest to be weights first
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
REAL = ("F16", "BF16", "F32", "F64")  # safetensors' names of the types that weights are stored in
SHOWN = 3


def weight_files(directory: Path, config: Any) -> list[Path]:
    """The files that transformers reads the weights from; raises InputError where there are none, or others count, too."""
    named = getattr(config, "transformers_weights", None) or SINGLE
    if not isinstance(named, str) or Path(named).name != named:
        raise InputError(f"{directory}: transformers_weights is {named!r}, which names no file of weights in this directory")
    single, index = (SINGLE, named) if named.endswith(".index.json") else (named, INDEX)
    if _is_there(directory / single):
        used = [directory / single]
    elif _is_there(directory / index):
        used = [directory / name for name in _shards(directory / index)]
    else:
        there = [path.name for path in directory.iterdir()]
        raise InputError(f"{directory}: no safetensors weights here{instead_of(there)}")
    for file in used:
        refuse_missing(file)
    refuse_beside(directory, used)
    return used


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())))
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        names = []
    if not names:
        raise InputError(f"{index}: no readable index of weights; save the model anew with save_pretrained")
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{index}: names {name}, which lies elsewhere; weights must lie in the model's own directory")
        if not _is_there(index.parent / name):
            raise InputError(f"{index}: names {name}, which is not here; copy it from where the model came from")
    return names


def instead_of(files: Collection[str]) -> str:
    """What a model without weights of ours has in their place, among its `files`."""
    for name, what in CHANGING.items():
        if name in files:
            return f" ({name} is {what})"
    if pickles := [name for suffix in PICKLES for name in sorted(files) if name.endswith(suffix)]:
        return f" ({pickles[0]} is a pickle, which is never loaded: convert it to safetensors)"
    others = sorted(name for name in files if _is_weights(name))
    return f" ({others[0]} is not loaded: weights are in {SINGLE})" if others else ""


def weights_in(directory: Path) -> list[Path]:
    """Every file of weights that lies in a model's directory, in order; hidden ones are a Mac's own."""
    return sorted(path for path in directory.glob("*.safetensors") if _is_weights(path.name))


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith(".")


def refuse_beside(directory: Path, used: Collection[Path]) -> None:
    """Raise InputError where a file beside the `used` ones belongs to the model and would be left out."""
    for name, what in CHANGING.items():
        if (directory / name).exists():
            raise InputError(f"{directory}: {name} is {what}; its weights are not in {sorted(used)[0].name}")
    for file in weights_in(directory):
        if file not in used and not VARIANT.fullmatch(file.name):
            raise InputError(
                f"{directory}: {file.name} lies beside {sorted(used)[0].name} and is not loaded: move it away if it is not "
                "part of the model, else save the model anew with save_pretrained"
            )
    if more := [kind for kind, _ in modules_of(directory) if kind not in KNOWN_MODULES]:
        works = ", ".join(KNOWN_MODULES)
        raise InputError(f"{directory / MODULES_FILE}: the model goes on in a module {more[0]!r}; what works is {works}")


def refuse_unfit(model: "PreTrainedModel", loading: dict[str, Any], files: list[Path], directory: Path) -> None:
    """Raise InputError, with names and shapes, where weights were not used, are missing or have other shapes or types.

    Args:
        model: what was loaded, with sizes that do not fit ignored.
        loading: what `from_pretrained(output_loading_info=True)` says.
        files: what it was loaded from.
        directory: of the model, for the message.
    """
    unused = family_of(model.config).unused if heads_of(model) else (*family_of(model.config).unused, POOLER)
    harmless = re.compile("|".join([HARMLESS, *unused]))
    stored = _stored(files, harmless)
    if odd := [f"{name} ({kind})" for name, kind in stored if kind not in REAL]:
        raise InputError(f"{directory}: {_some(odd)}: weights that are no floating point numbers; give the one from before")
    unexpected = sorted(name for name in loading["unexpected_keys"] if not harmless.search(name))
    missing = sorted(set(loading["missing_keys"]) & set(model.state_dict()))
    wrong = sorted((name, tuple(had), tuple(wants)) for name, had, wants in loading["mismatched_keys"])
    if unexpected:
        reason = _cause(unexpected, {name for name, _ in model.named_parameters()})
        raise InputError(f"{directory}: {_some(unexpected)} in the weights, but not in the model that config.json describes"
                         f"{reason}")  # fmt: skip
    if wrong:
        shapes = [f"{name} is {_shape(had)} and should be {_shape(wants)}" for name, had, wants in wrong]
        raise InputError(f"{directory}: config.json does not fit the weights: {_some(shapes)}{_size_cause(wrong, model)}")
    if missing:
        hint = "; is it fine-tuned?" if _only_head(missing, model) else ": the file is not the whole model"
        raise InputError(f"{directory}: the weights lack {missing[0]} ({len(missing)} missing in all){hint}")
    if len(stored) > len(model.state_dict()):
        alike = Counter(_bare(name, model) for name, _ in stored)
        twice = [name for name, _ in stored if alike[_bare(name, model)] > 1]
        raise InputError(
            f"{directory}: {len(stored)} weights for {len(model.state_dict())} of the model, so that some are not used: "
            f"{_some(twice) or 'two names stand for one'}; remove the others"
        )


def aliases_of(model: "PreTrainedModel") -> dict[str, str]:
    """The names of weights that go by another one, too, each with that other one: such a weight is stored once."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}


def _stored(files: list[Path], harmless: re.Pattern[str]) -> list[tuple[str, str]]:
    """The name and the type of every tensor in `files` that an answer may depend on."""
    from safetensors import safe_open

    found = []
    for file in files:
        with safe_open(file, "numpy") as tensors:
            found += [(name, tensors.get_slice(name).get_dtype()) for name in tensors.keys() if not harmless.search(name)]  # noqa: SIM118
    return found


def _bare(name: str, model: "PreTrainedModel") -> str:
    """`name` without what checkpoints differ in: the prefix of the encoder, and the old names of a norm's weights."""
    while name.startswith(f"{model.base_model_prefix}."):
        name = name.removeprefix(f"{model.base_model_prefix}.")
    return name.replace(".gamma", ".weight").replace(".beta", ".bias")


def _cause(unexpected: list[str], known: set[str]) -> str:
    """The usual reason for weights of such names, and the remedy; empty where there is none that we know."""
    for mark, reason in MARKS.items():
        if any(re.search(mark, name) for name in unexpected):
            return f": {reason}"
    for prefix, wrapper in PREFIXES.items():
        inner = [name.removeprefix(prefix) for name in unexpected if name.startswith(prefix)]
        if any(name in known for name in inner):
            return f": the names begin with {prefix!r}, as in a checkpoint of {wrapper}"
    if any("distance_embedding" in name for name in unexpected):
        return ": they are relative positions (position_embedding_type), which transformers 5 has not for this model"
    return ": an answer that needs them would be another one; remove them from the file only if nothing does"


def _size_cause(wrong: list[tuple[str, tuple[int, ...], tuple[int, ...]]], model: "PreTrainedModel") -> str:
    names = [name for name, _, _ in wrong]
    if all(ATTENTION.search(name) for name in names):
        return ": its heads are pruned already; give the model from before"
    if any("word_embeddings" in name for name in names):
        return ": vocab_size is another than the embeddings' rows"
    if all(name.startswith("classifier.") for name in names):
        return f": the labels in config.json are {model.config.num_labels}; name them all in id2label and label2id"
    return ""


def _only_head(missing: Iterable[str], model: "PreTrainedModel") -> bool:
    return all(not name.startswith(f"{model.base_model_prefix}.") for name in missing)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _shape(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))
