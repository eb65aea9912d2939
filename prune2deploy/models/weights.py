"""Whether a checkpoint is wholly what its configuration describes: every weight is used, and nothing beside it counts."""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Weights that no answer depends on: buffers that are computed anew, and heads of the pretraining beside a classifier's.
HARMLESS = re.compile(
    r"(^|\.)position_ids$|(^|\.)embeddings\.token_type_ids$|^cls\.(predictions|seq_relationship)\.|^vit\.pooler\."
)
VARIANT = re.compile(r"model\.[\w-]+(-\d{5}-of-\d{5})?\.safetensors")  # the same weights in another precision
PREFIXES = {
    "module.": "torch's DataParallel: save model.module",
    "_orig_mod.": "torch.compile: save model._orig_mod",
    "_fsdp_wrapped_module.": "FSDP: save the full state dict",
    "base_model.model.": "PEFT: merge the adapter (merge_and_unload) and save that",
    "model.": "a training framework: save the model inside it with save_pretrained",
    "student.": "a distillation trainer: save the student with save_pretrained",
    "net.": "a training framework: save the model inside it with save_pretrained",
}
MARKS = {
    r"\.lora_[AB]\b|\.lora_embedding_|\.modules_to_save\.|\.adapters?\.": (
        "they are those of an adapter that is not merged: merge it (merge_and_unload) and save the result"
    ),
    r"\.(weight|bias)_(orig|mask)$": "torch's pruning is not made permanent: call prune.remove, then save",
    r"\.(weight_[gv]|parametrizations\..*)$": "a parametrisation is not removed: call remove_parametrizations, then save",
    r"\.(SCB|qweight|qzeros|scales|absmax|weight_scale|quant_state.*|weight_format)$": (
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
PLAIN_MODULES = ("Transformer", "Pooling", "Normalize", "CrossEncoder")
SHOWN = 3


def weight_files(directory: Path, config: Any) -> list[Path]:
    """The files that transformers reads the weights from; raises InputError where there are none, or others count, too."""
    named = getattr(config, "transformers_weights", None)
    single, index = directory / (named or "model.safetensors"), directory / "model.safetensors.index.json"
    if single.name.endswith(".index.json"):
        single, index = directory / "model.safetensors", single
    if single.is_file():
        used = [single]
    elif index.is_file():
        used = [directory / name for name in _shards(index)]
    else:
        raise InputError(f"{directory}: no safetensors weights here{_instead(directory)}")
    refuse_beside(directory, used)
    return used


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index}: no readable index of weights; save the model anew with save_pretrained") from None
    for name in names:
        if not (index.parent / str(name)).is_file():
            raise InputError(f"{index}: names {name}, which is not here; copy it from where the model came from")
    return [str(name) for name in names]


def _instead(directory: Path) -> str:
    """What a directory without weights of ours has in their place."""
    for name, what in CHANGING.items():
        if (directory / name).is_file():
            return f" ({name} is {what})"
    pickles = sorted(path.name for path in directory.glob("*.bin"))
    if pickles:
        return f" ({pickles[0]} is a pickle, which is never loaded: convert it to safetensors)"
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    return f" ({others[0]} is not loaded: weights are in model.safetensors)" if others else ""


def refuse_beside(directory: Path, used: Collection[Path]) -> None:
    """Raise InputError where a file beside the `used` ones belongs to the model and would be left out."""
    for name, what in CHANGING.items():
        if (directory / name).exists():
            raise InputError(f"{directory}: {name} is {what}; its weights are not in {sorted(used)[0].name}")
    for file in sorted(directory.glob("*.safetensors")):
        if file not in used and not VARIANT.fullmatch(file.name):
            raise InputError(
                f"{directory}: {file.name} lies beside {sorted(used)[0].name} and is not loaded: move it away if it is not "
                "part of the model, else save the model anew with save_pretrained"
            )
    modules = directory / "modules.json"
    if modules.is_file():
        _refuse_modules(modules)


def _refuse_modules(path: Path) -> None:
    """Raise InputError where sentence-transformers puts more behind the transformer than pooling."""
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, OSError, KeyError, TypeError):
        raise InputError(f"{path}: not readable as a list of sentence-transformers' modules; remove it or mend it") from None
    if more := [kind for kind in kinds if kind not in PLAIN_MODULES]:
        raise InputError(f"{path}: the model goes on in a module {more[0]!r}, which is not supported yet")


def refuse_unfit(model: "PreTrainedModel", loading: dict[str, Any], directory: Path) -> None:
    """Raise InputError, with names and shapes, where weights were not used, are missing or have other shapes.

    Args:
        model: what was loaded, with sizes that do not fit ignored.
        loading: what `from_pretrained(output_loading_info=True)` says.
        directory: of the model, for the message.
    """
    unexpected = sorted(name for name in loading["unexpected_keys"] if not HARMLESS.search(name))
    missing = sorted(loading["missing_keys"])
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
