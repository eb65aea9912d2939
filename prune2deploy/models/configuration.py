"""Reading `config.json`: what a model is, refused by name where we would take it for something else."""

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.errors import InputError, reason_of
from prune2deploy.files import refuse_missing
from prune2deploy.models.family import (
    LABELLED,
    Family,
    class_of,
    families,
    family_of,
    has_labels,
    refuse_impossible,
    unsupported,
)
from prune2deploy.models.image_processor import size_made
from prune2deploy.models.label_maps import is_placeholder, label_names
from prune2deploy.models.sentence_modules import pools
from prune2deploy.models.switches import SWITCHES

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Options that transformers 4 honoured and transformers 5 reads over, or that we do; empty, they say nothing.
IGNORED = {
    "position_embedding_type": "transformers 5 has absolute positions only here, and answers otherwise",
    "pruned_heads": "its heads are pruned already, which transformers 5 cannot load; give the model from before",
    "per_layer_config": "its layers differ from each other, which is not supported yet",
    "add_cross_attention": "it attends to another model's states, which is not supported yet",
    "quantization_config": "it is quantised; give the model from before",
}
MULTI_LABEL = "multi_label_classification"
ACTIVATIONS = ("sbert_ce_default_activation_function", "activation_fn")  # that sentence-transformers puts on a cross-encoder
SOFTMAX_OR_NONE, SIGMOID = ("softmax", "identity", "none"), "sigmoid"
# Of no influence on an answer: written by trainers and by older versions.
REMARKS = {
    "_commit_hash", "_name_or_path", "_num_labels", "adapters", "auto_map", "bad_words_ids", "begin_suppress_tokens",
    "cross_attention_hidden_size", "custom_pipelines", "decoder_start_token_id", "directionality", "diversity_penalty",
    "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "length_penalty", "max_length", "min_length",
    "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
    "output_attentions", "output_past", "output_scores", "pooler_fc_size", "pooler_num_attention_heads",
    "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "prefix", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "sep_token_id", "sentence_transformers", "suppress_tokens", "task_specific_params",
    "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "head_dim", "name_or_path",
    "torchscript", "transformers.js_config", "transformers_weights", "typical_p", "use_bfloat16", "use_return_dict",
    "attn_implementation", "_attn_implementation_autoset", *ACTIVATIONS, *IGNORED,
}  # fmt: skip


def load_config(directory: Path) -> "PretrainedConfig":
    """The configuration of the model in `directory`, with consistent label maps, if any, and all `SWITCHES` as we need them.

    Raises InputError where it is missing, not supported, or says something that loading the model would read over.
    """
    path, values = read_config(directory)
    refuse_impossible(values["model_type"])
    known = families().get(values["model_type"])
    refuse_ignored(values, path, other_positions=known is None)
    try:
        config = _parsed(values, directory)
    except Exception as error:  # transformers raises whatever its validators raise
        if known is None:
            raise unsupported(values["model_type"]) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not usable as a {values['model_type']} configuration: {reason[:300]}") from None
    config.architectures = [_architecture(values, known.heads if known else _classes(values, path), path)]
    family = known or family_of(config)
    if family.any_size:
        config.image_size = size_made(directory)
    refuse_odd_sizes(config, family, path)
    if has_labels(config):
        names = label_names(values, path)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        if is_multi_label(values, len(names), class_of(config), path):
            config.problem_type = MULTI_LABEL
    for name, value in SWITCHES.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def read_config(directory: Path) -> tuple[Path, dict[str, Any]]:
    """`config.json` of a model directory and what is in it; raises InputError where it is no configuration."""
    path = directory / "config.json"
    if path.is_symlink() or path.exists():
        refuse_missing(path)
    else:
        raise InputError(
            f"{directory}: no config.json here; a model directory has one, beside model.safetensors{_elsewhere(directory)}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not a transformers configuration: cannot be read as JSON: {reason_of(error)}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise InputError(f"{path}: not a transformers configuration (no readable `model_type`)")
    return path, values


def _elsewhere(directory: Path) -> str:
    """Where a model may be instead."""
    if (directory / "adapter_config.json").is_file():
        return " (adapter_config.json: this is an adapter; merge it into its model and save the result)"
    below = sorted(path.parent.name for path in directory.glob("*/config.json"))
    return f" (there is one in {below[-1]}/)" if below else ""


def _parsed(values: dict[str, Any], directory: Path) -> "PretrainedConfig":
    """`values` as transformers reads them, but for the label maps, which we read ourselves."""
    from transformers import AutoConfig

    ours = {"model_type", "id2label", "label2id", "num_labels", "architectures", "name_or_path", "self", "cls", *IGNORED}
    said = {key: value for key, value in values.items() if key not in ours}
    return AutoConfig.for_model(values["model_type"], **said, name_or_path=str(directory))


def _classes(values: dict[str, Any], path: Path) -> dict[str, str]:
    """The classes of a model that there is no file of, as `Family.heads` has them: those named, and its encoder alone."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    encoder = MODEL_MAPPING_NAMES.get(values["model_type"])
    named = values.get("architectures") or []
    found = {str(name): "?" for name in ([named] if isinstance(named, str) else named)}
    return {**found, **({encoder: ""} if isinstance(encoder, str) else {})}


def _architecture(values: dict[str, Any], heads: Mapping[str, str], path: Path) -> str:
    """The class of the model, the first that is supported where several are named.

    Where sentence-transformers pools what the encoder says, it is the encoder alone, unless the head has labels.
    """
    supported = tuple(heads)
    named = values.get("architectures") or []
    named = [named] if isinstance(named, str) else named
    encoder = next((name for name, head in heads.items() if not head), None)
    labelled = isinstance(named, list) and any(str(name).endswith(LABELLED) for name in named)
    if encoder and pools(path.parent) and not labelled:
        return encoder
    if not isinstance(named, list) or not named:
        raise InputError(
            f"{path}: architectures does not say which class the model is, such as {supported[0]}; save the model with "
            "save_pretrained"
        )
    if found := next((name for name in named if name in supported), None):
        return str(found)
    raise InputError(
        f"{path}: the model is a {named[0]}; supported for {values['model_type']} are: {', '.join(supported)} (fine-tune it "
        "for a task first)"
    )


def refuse_odd_sizes(config: "PretrainedConfig", family: Family, path: Path) -> None:
    """Raise InputError where the sizes or the activation are none that a model can have."""
    from transformers.activations import ACT2FN

    try:
        blocks = family.blocks(config)
    except (ValueError, TypeError, ZeroDivisionError, KeyError, IndexError) as error:
        raise InputError(f"{path}: {reason_of(error)}") from None
    if not blocks:
        raise InputError(f"{path}: no layers: there must be 1 or more")
    if odd := next((block for block in blocks if block.units < 1 or block.columns < 1), None):
        what = "heads" if odd.kind == "attention" else "filters"
        raise InputError(f"{path}: {odd} has {odd.units} {what} of {odd.columns} columns: both must be 1 or more")
    activation = family.fixed(config)["activation"]
    if activation not in ACT2FN:
        raise InputError(f"{path}: the activation {activation!r} is none that transformers knows, as it knows gelu or relu")


def refuse_ignored(values: dict[str, Any], path: Path, other_positions: bool) -> None:
    """Raise InputError, naming it, where an option asks for what loading the model would not give.

    `other_positions`: whether the model may be one that has others than absolute positions.
    """
    for option, reason in IGNORED.items():
        if option == "position_embedding_type" and other_positions:
            continue
        if values.get(option) and str(values[option]).lower() != "absolute":
            raise InputError(f"{path}: {option} is {json.dumps(values[option])[:80]}: {reason}")
    auto_map = values.get("auto_map")
    own = [name for name in auto_map if name.startswith("AutoModel")] if isinstance(auto_map, dict) else []
    if own:
        raise InputError(
            f"{path}: auto_map names code of the model's own for {own[0]}, which is never run, and transformers' own class "
            "may compute something else; remove auto_map where it does not"
        )


def is_multi_label(values: dict[str, Any], outputs: int, name: str, path: Path) -> bool:
    """Whether each of the `outputs` of a model of class `name` is a yes or no of its own.

    Raises InputError where they are anything else than that, one of several classes, or, of texts, one number.
    """
    of_texts = name.endswith("ForSequenceClassification")
    if outputs == 1 and not of_texts:
        raise InputError(
            f"{path}: the model has one output: a score, which is supported for texts only yet (classification needs two "
            "labels or more)"
        )
    if values.get("problem_type") == "regression" and outputs > 1:
        raise InputError(f"{path}: problem_type is regression, and the model has {outputs} outputs: only one works yet")
    if outputs == 1:
        return False  # whatever is done to a score afterwards, it is the score that is compared
    functions = _functions(values)
    sigmoid = next((option for option, function in functions.items() if function == SIGMOID), None)
    if values.get("problem_type") == MULTI_LABEL or sigmoid:
        if of_texts:
            return True
        raise InputError(
            f"{path}: {sigmoid or 'problem_type'} says that each label is a yes or no of its own (multi-label "
            "classification), which is supported for texts only (…ForSequenceClassification)"
        )
    for option, function in functions.items():
        if function not in SOFTMAX_OR_NONE:
            raise InputError(
                f"{path}: {option} is {function}, so that outputs are no softmax over classes, and no yes or no for each; "
                f"what works is softmax, none or {SIGMOID}"
            )
    return False


def _functions(values: dict[str, Any]) -> dict[str, str]:
    """What is done to the outputs, by the option that says so."""
    beside = values.get("sentence_transformers")
    said = {**values, **(beside if isinstance(beside, dict) else {})}
    options = {option: said.get(option) for option in ("function_to_apply", *ACTIVATIONS)}
    return {option: str(name).rpartition(".")[2].lower() for option, name in options.items() if name is not None}


def worth_a_look(directory: Path) -> list[str]:
    """What whoever made the model in `directory` should know: options that nothing reads, names that others do not use."""
    values = read_config(directory)[1]
    config = load_config(directory)
    known = {*type(config).__dataclass_fields__, *config.attribute_map, *REMARKS}
    notes = []
    if unknown := sorted(name for name in set(values) - known if not _read(name, config)):
        notes.append(f"config.json has options that transformers does not read for this model: {', '.join(unknown)}")
    if not has_labels(config):
        return notes
    theirs = {int(index): str(name) for index, name in (values.get("id2label") or {}).items()}
    if is_placeholder(theirs) and not is_placeholder(config.id2label):
        notes.append(
            "id2label in config.json names no class, so that transformers' pipeline answers LABEL_0, LABEL_1, …; what is "
            "served has the names of label2id"
        )
    return notes


def _read(name: str, config: "PretrainedConfig") -> bool:
    """Whether the option `name` is a property of the configuration, or its or the model's source has that word."""
    import transformers

    if hasattr(type(config), name):
        return True
    classes = (type(config), getattr(transformers, config.architectures[0]))
    sources = (inspect.getsource(sys.modules[each.__module__]) for each in classes)
    return any(re.search(rf"\b{re.escape(name)}\b", source) for source in sources)
