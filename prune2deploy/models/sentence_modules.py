"""What sentence-transformers puts behind an encoder, as its files say: pooling, dense layers, normalisation, prompts."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2deploy.errors import InputError, reason_of

if TYPE_CHECKING:
    import torch

MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
LENGTH_FILES = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
                "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
                "sentence_xlnet_config.json")  # fmt: skip
SUPPORTED = ("Transformer", "Pooling", "Dense", "Normalize")
# what a pooling's file calls its modes, before and since it names them by one word
FLAGS = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}  # fmt: skip
MODES = ("cls", "mean", "max", "mean_sqrt_len_tokens", "lasttoken")
NEVER = -1e9  # what a token that does not count has where the largest is taken
SMALLEST = 1e-9  # count of tokens that is divided by, as there
LENGTH = 1e-12  # of a vector that is divided by, as there


@dataclass(frozen=True)
class Dense:
    """A dense layer behind the pooling. `weight`: [out, in]; `bias`: [out] or None; `activation`: "identity" or "tanh"."""

    weight: "torch.Tensor"
    bias: "torch.Tensor | None"
    activation: str

    def __call__(self, vectors: "torch.Tensor") -> "torch.Tensor":
        """[n, out] of [n, in]."""
        import torch

        bias = None if self.bias is None else self.bias.to(vectors.device)
        found = torch.nn.functional.linear(vectors, self.weight.to(vectors.device), bias)
        return found.tanh() if self.activation == "tanh" else found


@dataclass(frozen=True)
class SentenceModules:
    """What makes one vector of a text of what an encoder puts out at its tokens.

    `modes`: of pooling, whose vectors are one after the other; `longest`: tokens that texts are cut to, None: as the
    tokenizer says; `prompts`: by name, what is put before a text; `default_prompt`: the name of the one that always is.
    """

    modes: tuple[str, ...] = ("mean",)
    dense: tuple[Dense, ...] = ()
    normalise: bool = False
    longest: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    @property
    def prompt(self) -> str:
        """What is put before every text where nothing else is asked for."""
        return self.prompts[self.default_prompt] if self.default_prompt else ""

    def vectors(self, hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        """[n, size] of hidden states [n, tokens, d] and which tokens are no padding, [n, tokens], 0 or 1."""
        import torch

        pooled = torch.cat([POOL[mode](hidden, mask[..., None].to(hidden.dtype)) for mode in self.modes], dim=-1)
        for dense in self.dense:
            pooled = dense(pooled)
        if not self.normalise:
            return pooled
        # ONNX Runtime's optimizer gives up on graphs with the operator that `norm` becomes
        return pooled / pooled.square().sum(-1, keepdim=True).sqrt().clamp_min(LENGTH)


def _last(hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """The state of the last token that is no padding, wherever the padding is."""
    import torch

    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None] * mask
    return (hidden * (places == places.amax(1, keepdim=True))).sum(1)


POOL: "dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]" = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "mean": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1).clamp_min(SMALLEST),
    "max": lambda hidden, mask: hidden.masked_fill(mask == 0, NEVER).amax(1),
    "mean_sqrt_len_tokens": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1).clamp_min(SMALLEST).sqrt(),
    "lasttoken": _last,
}


def pools(directory: Path) -> bool:
    """Whether sentence-transformers makes one vector of what the model in `directory` puts out."""
    return any(kind == "Pooling" for kind, _ in modules_of(directory))


def modules_of(directory: Path) -> list[tuple[str, Path]]:
    """(kind, folder) of every module; none where there is no `modules.json`. Raises InputError where it cannot be read."""
    path = directory / MODULES_FILE
    if not path.is_file():
        return []
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(each["type"]).rpartition(".")[2], str(each.get("path", ""))) for each in listed]
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: not readable as a list of sentence-transformers' modules; remove it or mend it") from None
    for kind, folder in found:
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise InputError(f"{path}: the module {kind!r} lies outside the model's directory, in {folder!r}")
    return [(kind, directory / folder) for kind, folder in found]


def module_files(directory: Path) -> list[Path]:
    """The files that say what is behind the encoder, weights among them, in order."""
    if not pools(directory):
        return []
    named = [directory / name for name in (MODULES_FILE, PROMPTS_FILE, *LENGTH_FILES)]
    for _, folder in modules_of(directory):
        if folder != directory:
            named += [folder / "config.json", folder / "model.safetensors"]
    return [path for path in named if path.is_file()]


def read_modules(directory: Path) -> SentenceModules:
    """What is behind the encoder in `directory`; raises InputError, naming it, for what we would compute otherwise.

    A directory that says nothing is one of the mean over tokens, as sentence-transformers takes it.
    """
    found = modules_of(directory)
    if not found:
        return SentenceModules()
    kinds = [kind for kind, _ in found]
    order = [kind for kind in kinds if kind != "Dense"]
    if order not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or kinds[1] != "Pooling":
        raise InputError(
            f"{directory / MODULES_FILE}: the modules are {', '.join(kinds)}; what works is Transformer, Pooling, any "
            "number of Dense, and Normalize at the end"
        )
    modes = _modes(found[1][1] / "config.json")
    prompts, default = _prompts(directory)
    return SentenceModules(
        modes=modes, dense=tuple(_dense(folder) for kind, folder in found if kind == "Dense"),
        normalise=kinds[-1] == "Normalize", longest=_longest(directory), prompts=prompts, default_prompt=default,
    )  # fmt: skip


def _modes(path: Path) -> tuple[str, ...]:
    said = _object(path)
    named = said.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    modes = modes or [mode for flag, mode in FLAGS.items() if said.get(flag)]
    if not modes or any(mode not in MODES for mode in modes):
        raise InputError(f"{path}: the pooling is {', '.join(map(str, modes)) or 'none'}; what works is {', '.join(MODES)}")
    if said.get("include_prompt") is False:
        raise InputError(f"{path}: include_prompt is false, so that prompts are read and not pooled; what works is true")
    return tuple(modes)


def _dense(folder: Path) -> Dense:
    from safetensors.torch import load_file

    said, weights = _object(folder / "config.json"), folder / "model.safetensors"
    activation = str(said.get("activation_function", "identity")).rpartition(".")[2].lower()
    if activation not in ("identity", "tanh"):
        raise InputError(f"{folder / 'config.json'}: activation_function is {activation}; identity and tanh work")
    if not weights.is_file():
        raise InputError(f"{folder}: no model.safetensors here (a pickle is never loaded: save the model anew)")
    try:
        tensors = load_file(weights)
        return Dense(tensors["linear.weight"].float(), _float(tensors.get("linear.bias")), activation)
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise InputError(f"{weights}: not the weights of a dense layer: {reason_of(error)}") from None


def _float(tensor: "torch.Tensor | None") -> "torch.Tensor | None":
    return None if tensor is None else tensor.float()


def _longest(directory: Path) -> int | None:
    """How many tokens texts are cut to, prompts and special tokens among them; None where no file says."""
    path = next((directory / name for name in LENGTH_FILES if (directory / name).is_file()), None)
    if path is None:
        return None
    said = _object(path)
    if said.get("do_lower_case"):
        raise InputError(f"{path}: do_lower_case is true; let the tokenizer do it (do_lower_case in tokenizer_config.json)")
    length = said.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise InputError(f"{path}: max_seq_length is {length!r}, which is no number of tokens")
    return length


def _prompts(directory: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the one that is always used."""
    path = directory / PROMPTS_FILE
    if not path.is_file():
        return {}, None
    said = _object(path)
    prompts, default = said.get("prompts") or {}, said.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise InputError(f"{path}: prompts is no map from names to texts")
    if default is not None and default not in prompts:
        raise InputError(f"{path}: default_prompt_name is {default!r}, and the prompts are {', '.join(prompts) or 'none'}")
    return prompts, default


def _object(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {reason_of(error)}") from None
    if not isinstance(said, dict):
        raise InputError(f"{path}: not an object of options")
    return said
