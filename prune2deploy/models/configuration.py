"""Reading `config.json`: what a model is, refused by name where we would take it for something else."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.errors import InputError
from prune2deploy.models.label_maps import label_names
from prune2deploy.models.registry import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What `forward` returns or keeps, and how it goes about it; the numbers are the same.
SWITCHES = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "use_cache": False,
    "chunk_size_feed_forward": 0,
}
# Options that transformers 4 honoured and transformers 5 reads over, or that we do, with the value that changes nothing.
IGNORED = {
    "position_embedding_type": ("absolute", "transformers 5 has absolute positions only here, and answers otherwise"),
    "pruned_heads": ({}, "its heads are pruned already, which transformers 5 cannot load; give the model from before"),
    "per_layer_config": ({}, "its layers differ from each other, which is not supported yet"),
    "add_cross_attention": (False, "it attends to another model's states, which is not supported yet"),
    "quantization_config": ({}, "it is quantised; give the model from before"),
}
OTHER_HEADS = {
    "regression": "it predicts numbers (regression)",
    "multi_label_classification": "it gives any number of labels (multi-label classification)",
}
ACTIVATIONS = ("sbert_ce_default_activation_function", "activation_fn")  # that sentence-transformers puts on a cross-encoder
SOFTMAX_OR_NONE = ("softmax", "identity", "none")
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
    "torchscript", "transformers.js_config", "transformers_weights", "typical_p", "use_bfloat16", "use_return_dict",
    "attn_implementation", "_attn_implementation_autoset", *ACTIVATIONS, *IGNORED,
}  # fmt: skip


def load_config(directory: Path) -> "PretrainedConfig":
    """The configuration of the model in `directory`, with consistent label maps and all `SWITCHES` as we need them.

    Raises InputError where it is missing, not supported, or says something that loading the model would read over.
    """
    path, values = read_config(directory)
    try:
        config = _parsed(values, directory)
    except Exception as error:  # transformers raises whatever its validators raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not usable as a {values['model_type']} configuration: {reason[:300]}") from None
    family = family_of(config)
    architecture = (config.architectures or ["none"])[0]
    if architecture not in family.architectures:
        raise InputError(
            f"{path}: the model is a {architecture}; supported for {config.model_type} are: "
            f"{', '.join(family.architectures)} (fine-tune it for a task first)"
        )
    refuse_ignored(values, path)
    names = label_names(values, path)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    refuse_other_heads(values, len(names), path)
    for name, value in SWITCHES.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def read_config(directory: Path) -> tuple[Path, dict[str, Any]]:
    """`config.json` of a model directory and what is in it; raises InputError where it is no configuration."""
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(f"{directory}: no config.json here; a model directory has one, beside model.safetensors")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        named = isinstance(values["model_type"], str)
    except (ValueError, OSError, KeyError, TypeError):
        named = False
    if not named:
        raise InputError(f"{path}: not a transformers configuration (no readable `model_type`)")
    return path, values


def _parsed(values: dict[str, Any], directory: Path) -> "PretrainedConfig":
    """`values` as transformers reads them, but for the label maps, which we read ourselves."""
    from transformers import AutoConfig

    said = {key: value for key, value in values.items() if key not in ("model_type", "id2label", "label2id", "num_labels")}
    return AutoConfig.for_model(values["model_type"], **said, name_or_path=str(directory))


def refuse_ignored(values: dict[str, Any], path: Path) -> None:
    """Raise InputError, naming it, where an option asks for what loading the model would not give."""
    for option, (harmless, reason) in IGNORED.items():
        if values.get(option) not in (None, harmless):
            raise InputError(f"{path}: {option} is {json.dumps(values[option])[:80]}: {reason}")
    auto_map = values.get("auto_map")
    own = [name for name in auto_map if name.startswith("AutoModel")] if isinstance(auto_map, dict) else []
    if own:
        raise InputError(
            f"{path}: auto_map names code of the model's own for {own[0]}, which is never run, and transformers' own class "
            "may compute something else; remove auto_map where it does not"
        )


def refuse_other_heads(values: dict[str, Any], outputs: int, path: Path) -> None:
    """Raise InputError, by name, where the head's loss is not a softmax over two or more classes."""
    if reason := OTHER_HEADS.get(str(values.get("problem_type"))):
        raise InputError(f"{path}: problem_type is {values['problem_type']}: {reason}, which is not supported yet")
    if outputs == 1:
        raise InputError(
            f"{path}: the model has one output: a score, as of a reranker or a regressor, which is not supported yet "
            "(classification needs two labels or more)"
        )
    said = {**values, **(values.get("sentence_transformers") or {})}
    for option in ("function_to_apply", *ACTIVATIONS):
        function = said.get(option)
        if function is not None and str(function).rpartition(".")[2].lower() not in SOFTMAX_OR_NONE:
            raise InputError(
                f"{path}: {option} is {function}, so that its outputs are no softmax over classes; multi-label models and "
                "scores are not supported yet"
            )


def unknown_options(directory: Path) -> list[str]:
    """The options in `config.json` that nothing reads, as far as we know: worth a look by whoever made the model."""
    values = read_config(directory)[1]
    config = load_config(directory)
    known = {*type(config).__dataclass_fields__, *config.attribute_map, *REMARKS}
    return sorted(set(values) - known)
