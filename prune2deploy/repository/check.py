"""The check of a whole model repository: every entry, every version, and whether the ensembles fit what they join."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from prune2deploy.errors import InputError
from prune2deploy.files import Record
from prune2deploy.repository.manifest import Manifest, PartManifest, Role, read_sealed, seal_problems
from prune2deploy.repository.triton import CONFIG_FILE, TensorSpec, parse_config
from prune2deploy.repository.triton_check import check_entry, frame_problems, spec_of_message
from prune2deploy.repository.versions import versions_of
from prune2deploy.validation.record import Check

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


class EntryState(Record):
    """One entry of a repository. `kind`: "model", or its role around `model`; `problems`: empty where nothing is wrong.

    `together`: all kinds of entries that there are to be around the model.

    `unchecked`: compiled python, which a server leaves where it may write, and nothing vouches for.
    """

    name: str
    kind: str
    model: str | None
    versions: list[int]
    problems: list[str]
    unchecked: list[str]
    together: list[str] = Field(default_factory=list)


def check_repository(repository: Path) -> list[EntryState]:
    """What there is in `repository` and what is wrong with it; raises InputError where it is no repository."""
    if not repository.is_dir():
        raise InputError(f"{repository}: no such model repository; `prune2deploy export` makes one")
    if versions_of(repository):
        raise InputError(f"{repository} is an entry; give the repository, {repository.resolve().parent}")
    entries = sorted(path for path in repository.resolve().iterdir() if path.is_dir())
    if not entries:
        raise InputError(f"{repository}: no models here")
    found = [check_one(entry) for entry in entries]
    kinds = {model: {each.kind for each in found if each.model == model} for model in {each.model for each in found}}
    for state in found:
        if state.kind in get_args(Role):
            missing = sorted({"model", *state.together} - kinds[state.model])
            state.problems.extend(f"the {kind} entry of {state.model!r} is missing" for kind in missing)
    return found


def check_one(entry: Path) -> EntryState:
    """The state of one entry: its files, its versions, its configuration."""
    versions = versions_of(entry)
    numbers = [path.name for path in entry.iterdir() if path.is_dir() and path.name.isdecimal()]
    problems = [f"version directory {name!r}: a server passes over it" for name in numbers if name.startswith("0")]
    for before, after in itertools.pairwise(versions):
        if after - before > 1:
            missing = f"{before + 1}" if after - before == 2 else f"{before + 1} to {after - 1}"
            problems.append(f"version {missing} is missing between {before} and {after}")
    kind, model, together = "unknown", None, []
    if not versions:
        problems.append("no version directory here, so this is not a package of prune2deploy")
    for version in map(str, versions):
        sealed = None
        try:
            sealed = read_sealed(entry / version)
            broken = seal_problems(entry, version)
        except InputError as error:
            broken = [str(error)]
        if not (entry / version).exists():
            continue  # a release has just retired it
        problems += [problem for problem in broken if problem not in problems]
        if sealed is None:
            continue
        kind, model = (sealed.role, sealed.model) if isinstance(sealed, PartManifest) else ("model", sealed.name)
        together = list(sealed.together) if isinstance(sealed, PartManifest) else []
        if sealed.name != entry.name:
            problems.append(f"version {version} was made as {sealed.name!r}")
        found = check_entry(entry, version) if isinstance(sealed, Manifest) else part_problems(entry)
        problems += [problem for problem in found if problem not in problems]
        if isinstance(sealed, Manifest) and sealed.verdict != "passed":
            problems.append(f"version {version} was exported by force, with a failed check")
    return EntryState(
        name=entry.name, kind=kind, model=model, versions=versions, problems=problems, unchecked=compiled_in(entry),
        together=together,
    )  # fmt: skip


def compiled_in(entry: Path) -> list[str]:
    """The compiled python that a server left in `entry`."""
    return sorted(file.relative_to(entry).as_posix() for file in entry.rglob("__pycache__/*"))


def part_checks(entry: Path) -> list[Check]:
    """The check of each entry around the model in `entry`, in the same repository."""
    checks = []
    for other in sorted(path for path in entry.resolve().parent.iterdir() if path.is_dir() and path != entry.resolve()):
        try:
            sealed = read_sealed(other / str(max(versions_of(other), default=0)))
        except InputError:
            continue  # not ours, or not whole: `repository check` tells of it
        if isinstance(sealed, PartManifest) and sealed.model == entry.resolve().name:
            problems = check_one(other).problems
            checks.append(Check(
                name=f"{sealed.role} step {other.name}", passed=not problems,
                detail="; ".join(problems) or "files and configuration are those that were written",
            ))  # fmt: skip
    return checks


def part_problems(entry: Path) -> list[str]:
    """What is wrong with the configuration of an entry around a model."""
    try:
        config = parse_config(entry / CONFIG_FILE)
        problems = frame_problems(config, entry.name)
        if config.platform == "ensemble":
            problems += _ensemble_problems(entry.parent, config)
    except InputError as error:
        return [str(error)]
    return problems


def _ensemble_problems(repository: Path, config: "ModelConfig") -> list[str]:
    """Whether each tensor of each step is one of that model, and of one kind wherever it goes."""
    known = _tensors(config.input)
    problems = []
    for step in config.ensemble_scheduling.step:
        try:
            model = parse_config(repository / step.model_name / CONFIG_FILE)
        except InputError:
            problems.append(f"{CONFIG_FILE}: step {step.model_name!r} is not in this repository")
            continue
        if model.max_batch_size < config.max_batch_size:
            problems.append(f"{CONFIG_FILE}: step {step.model_name!r} takes at most {model.max_batch_size} at a time")
        inputs, outputs = _tensors(model.input), _tensors(model.output)
        problems += [f"{CONFIG_FILE}: step {step.model_name!r} also takes {name!r}" for name in inputs
                     if name not in step.input_map]  # fmt: skip
        for name, called in step.input_map.items():
            problems += _mismatch(step.model_name, name, inputs.get(name), known.get(called))
        for name, called in step.output_map.items():
            if name in outputs:
                known[called] = outputs[name]
            else:
                problems.append(f"{CONFIG_FILE}: step {step.model_name!r} gives no {name!r}")
    for name, spec in _tensors(config.output).items():
        problems += _mismatch(config.name, name, spec, known.get(name))
    return problems


def _tensors(messages: Iterable[Any]) -> dict[str, TensorSpec]:
    return {each.name: spec_of_message("", each) for each in messages}


def _mismatch(model: str, name: str, taken: TensorSpec | None, given: TensorSpec | None) -> list[str]:
    if taken is None or given is None:
        return [f"{CONFIG_FILE}: {name!r} of {model!r} is {'not there' if taken is None else 'given by no step'}"]
    if taken != given:
        return [f"{CONFIG_FILE}: {name!r} of {model!r} is {taken}, and gets {given}"]
    return []
