"""Loading dense models with care, and saving and loading shrunk ones."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from prune2deploy.budget import Budget
from prune2deploy.errors import InputError, reason_of
from prune2deploy.files import Record, read_record, seen_from, sha256_of, share, write_record
from prune2deploy.models.configuration import load_config
from prune2deploy.models.family import blocks_of, heads_of
from prune2deploy.models.hub import fetched
from prune2deploy.models.input_rounding import round_inputs_
from prune2deploy.models.logit_scale import factor_of, set_factor_
from prune2deploy.models.plan import Plan
from prune2deploy.models.precisions import paths_in_less, read_roundings, write_roundings
from prune2deploy.models.sentence_modules import module_files
from prune2deploy.models.signature import signature_of
from prune2deploy.models.weights import aliases_of, refuse_unfit, weight_files, weights_in
from prune2deploy.precisions import Rounding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAN_FILE = "prune2deploy.json"
WEIGHTS_FILE = "model.safetensors"
ROUNDING_FILE = "rounding.safetensors"
POOLER = "pooler."
# what a tokenizer or an image processor is made of: kept with the model, never code, never pickles
PROCESSOR_PATTERNS = (
    "tokenizer*.json", "vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "spiece.model", "sentencepiece.bpe.model", "preprocessor_config.json", "processor_config.json",
)
# small files that say whether there is more to a model than its weights
BESIDE_PATTERNS = (
    "adapter_config.json", "head_config.json", "modules.json", "sentence_*_config.json", "config_sentence_transformers.json",
    "*/config.json",
)  # fmt: skip


class StageResult(Record):
    """What one stage of pruning left of the model."""

    stage: str
    score: float = Field(description="task metric on the evaluation split, points")
    standard_error: float
    metric: str
    n: int
    lost_standard_error: float | None = Field(None, description="of the points lost against the dense model")
    reconstruction_error: float = Field(
        description="squared error of the last layer's output, relative to its variance, held-out calibration samples"
    )
    divergence: float = Field(description="from the dense model's predictions, held-out calibration samples, nats")
    logit_scale: float = Field(1.0, gt=0, description="what its logits were multiplied by, to be as sure as the dense model")
    kept: bool = Field(True, description="a step that raises the divergence is not kept")
    seconds: float = 0.0
    notes: list[str] = Field(default_factory=list)


class FitRound(Record):
    """One round of the closed loop: a candidate as the table saw it and as its engine measured."""

    predicted_ms: float
    measured_ms: float
    dense_ms: float


class Provenance(Record):
    """Where a pruned model comes from; enough to make it again."""

    source: str
    source_sha256: str
    task: str
    method: str
    budget: Budget
    predicted_ms: float | None = Field(None, description="by the latency table, in its own milliseconds")
    table: str | None = None
    table_sha256: str | None = None
    device: str | None = None
    fitted: list[FitRound] = Field(default_factory=list)
    data: str
    calibration_sha256: str
    calibration_samples: int
    labels: str
    seed: int
    effort: int = Field(0, ge=0, description="profiles of widths that were tried for a budget")
    computed_on: str = Field("cpu", description="the kind of device that pruning computed on")
    threads: int
    versions: dict[str, str]
    equality_error: float = Field(0.0, description="largest difference between masked and shrunk logits, real samples")
    stages: list[StageResult] = Field(default_factory=list)


class PrunedRecord(Record):
    """`prune2deploy.json` of a pruned model directory."""

    schema_version: int = Field(2, ge=1, le=2)
    plan: Plan
    weights_sha256: str
    rounding_sha256: str | None = Field(None, description="of the grids of blocks in a lower precision, if there are any")
    logit_scale: float = Field(1.0, gt=0, description="what multiplies a head's output, where other modules use its weights")
    provenance: Provenance

    @field_validator("schema_version")
    @classmethod
    def _newest(cls, version: int) -> int:
        return 2  # what version 1 had is read as it is


def digest_of_model(directory: Path) -> str:
    """Hash of a model's configuration and weights, and of what sentence-transformers puts behind it."""
    digest = hashlib.sha256()
    for file in [directory / "config.json", *weights_in(directory), *module_files(directory)]:
        digest.update(sha256_of(file).encode())
    return digest.hexdigest()


def resolve_model(name: str, root: Path) -> Path:
    """The directory of model `name`: a local directory, or a hub id that is fetched into the hub's cache.

    Raises InputError where there is neither, and of a hub id where config.json names a model that is not supported.
    """
    local = seen_from(root, name)
    if local.is_dir():
        return local
    if local.exists():
        raise InputError(f"{local} is a file; give the model's directory, with config.json and model.safetensors")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{local}: no such model directory")
    small, rest = ("config.json", *BESIDE_PATTERNS), ("*.safetensors", "*.safetensors.index.json", *PROCESSOR_PATTERNS)
    return fetched(name, small, rest)


def refuse_pruned(directory: Path) -> None:
    """Raise InputError where `directory` holds what pruning made."""
    if (directory / PLAN_FILE).exists():
        raise InputError(f"{directory} holds a model that is pruned already; give the dense one")


def load_dense(directory: Path) -> "PreTrainedModel":
    """The model in `directory`, in float32 and evaluation mode, with eager attention, which exports cleanly.

    Raises InputError for anything that a model directory can be wrong in.
    """
    import torch
    import transformers

    config = load_config(directory)
    refuse_pruned(directory)
    files = weight_files(directory, config)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, loading = getattr(transformers, config.architectures[0]).from_pretrained(
            directory, config=config, dtype=torch.float32, attn_implementation="eager", use_safetensors=True,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,
        )
    except Exception as error:  # safetensors, torch and transformers each raise their own
        raise InputError(
            f"{directory}: the weights cannot be loaded: {reason_of(error)}; copy the files again, config.json too"
        ) from None
    drop_pooler_(model, has_weights=not any(name.startswith(POOLER) for name in loading["missing_keys"]))
    refuse_unfit(model, loading, files, directory)
    _refuse_non_finite(model, directory)
    return model.eval().requires_grad_(False)


def save_pruned(
    model: "PreTrainedModel", plan: Plan, provenance: Provenance, source: Path, directory: Path,
    roundings: Mapping[str, Rounding] | None = None,
) -> None:
    """Write the shrunk `model` into the existing `directory`: configuration, weights, processor files, plan.

    `roundings`: of the linear layers in a lower precision, by path, whose weights are rounded already.
    """
    from safetensors.torch import save_file

    aliases = aliases_of(model)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in aliases}
    save_file(state, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    share(directory / WEIGHTS_FILE)
    model.config.to_json_file(directory / "config.json", use_diff=False)
    for file in processor_files(source):
        shutil.copy2(file, directory / file.name)
    weights_sha256 = sha256_of(directory / WEIGHTS_FILE)
    rounding_sha256 = None
    if roundings:
        write_roundings(directory / ROUNDING_FILE, roundings)
        rounding_sha256 = sha256_of(directory / ROUNDING_FILE)
    record = PrunedRecord(
        plan=plan, weights_sha256=weights_sha256, rounding_sha256=rounding_sha256, logit_scale=factor_of(model),
        provenance=provenance,
    )  # fmt: skip
    write_record(directory / PLAN_FILE, record)


def read_pruned_record(directory: Path) -> PrunedRecord:
    """The plan and provenance of a pruned model directory; raises InputError when it is not one."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; make one with `prune2deploy prune`")
    if not (directory / PLAN_FILE).is_file():
        raise InputError(f"{directory}: no {PLAN_FILE} here, so this is not a pruned model; `prune2deploy prune` makes one")
    return read_record(directory / PLAN_FILE, PrunedRecord, "pruned model record", "make one with `prune2deploy prune`")


def load(directory: str | Path) -> "PreTrainedModel":
    """The pruned model in `directory`: a working transformers model with ragged widths, in evaluation mode.

    Where blocks are in a lower precision, their weights and inputs are rounded as in the engine, and all is computed in
    float32. Raises InputError when the directory is not what `save_pruned` wrote.
    """
    import torch
    import transformers
    from safetensors.torch import load_file

    from prune2deploy.models.surgery import shrink_

    directory = Path(directory)
    record = read_pruned_record(directory)
    config = load_config(directory)
    weights = directory / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"{directory}: {WEIGHTS_FILE} is missing")
    if sha256_of(weights) != record.weights_sha256:
        raise InputError(f"{weights}: damaged or replaced: its hash is not the one in {PLAN_FILE}")
    record.plan.check_fits(signature_of(config))
    config._attn_implementation = "eager"
    with torch.random.fork_rng():  # building the skeleton draws random weights; the caller's generator is not ours
        model = getattr(transformers, config.architectures[0])(config)
    try:
        state = load_file(weights)
        drop_pooler_(model, has_weights=any(name.startswith(POOLER) for name in state))
        shrink_(model, record.plan)
        state |= {alias: state[name] for alias, name in aliases_of(model).items()}
        model.load_state_dict(state, strict=True)
    except Exception as error:
        problem = str(error).splitlines()[-1].strip()  # torch's first line names none
        raise InputError(
            f"{weights}: does not fit the plan in {PLAN_FILE}, one of the two was changed ({problem}); make both with "
            "`prune2deploy prune`"
        ) from None
    set_factor_(model, record.logit_scale)
    _refuse_non_finite(model, directory)
    round_inputs_(model, roundings_of(directory, record, model))
    return model.eval().requires_grad_(False)


def roundings_of(directory: Path, record: PrunedRecord, model: "PreTrainedModel") -> dict[str, Rounding]:
    """How the linear layers of the pruned `model` in `directory` are rounded, by path; raises InputError."""
    precisions = paths_in_less(model, record.plan, blocks_of(model))
    file = directory / ROUNDING_FILE
    if not precisions:
        return {}
    if not file.is_file() or sha256_of(file) != record.rounding_sha256:
        raise InputError(f"{file}: missing, damaged or replaced: make the model again with `prune2deploy prune`")
    return read_roundings(file, precisions, {path: model.get_submodule(path).weight.shape for path in precisions})


def drop_pooler_(model: "PreTrainedModel", has_weights: bool) -> None:
    """Remove, in place, the pooler of a model without a head where nothing reads it, or it `has_weights` of chance only."""
    pooler = getattr(model, "pooler", None)
    if heads_of(model) or pooler is None or not any(True for _ in pooler.parameters()):
        return
    if model.main_input_name == "input_ids" or not has_weights:
        model.pooler = None


def processor_files(directory: Path) -> list[Path]:
    """The tokenizer or image-processor files of a model directory."""
    return sorted(file for pattern in PROCESSOR_PATTERNS for file in directory.glob(pattern) if file.is_file())


def _refuse_non_finite(model: "PreTrainedModel", directory: Path) -> None:
    for name, tensor in model.named_parameters():
        if not tensor.isfinite().all():
            raise InputError(f"{directory}: {name} holds NaN or infinite values; the checkpoint is damaged")
