"""The init stage: look at a model and its data, check the reading of both, and write down what can be told from them."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2deploy.config import PROJECT_FILE, Project, project_from, refuse_existing_project, save_project
from prune2deploy.data.splits import guess_splits, left_out, open_data, share_rows, split_name, unused_splits
from prune2deploy.errors import InputError, NotServableError
from prune2deploy.models.checkpoint import load_dense, refuse_pruned, resolve_model
from prune2deploy.models.configuration import load_config, worth_a_look
from prune2deploy.progress import Progress
from prune2deploy.tasks.base import Run, Samples, Score, Task
from prune2deploy.tasks.predict import torch_run
from prune2deploy.tasks.registry import refuse_other_model, task_for, task_named, task_of
from prune2deploy.validation.dense_score import dense_score, drawn
from prune2deploy.validation.witness import Testimony, chain_of, preprocessor_of, reading, serving

CLIENT_SIDE = "with --client-side, clients make the model's inputs themselves, and nothing is asked of a server"


@dataclass(frozen=True)
class Initialised:
    """A new project, and what was found out on the way.

    `path`: of the project file; `testimony`: of transformers' pipeline; `dense`: the dense model's score on a share of the
    evaluation split, None where there are no labels; `notes`: what was seen and is not used.
    """

    project: Project
    path: Path
    testimony: Testimony
    dense: Score | None
    notes: list[str]


def init(
    model: str, data: str, root: Path, task: str | None = None, columns: dict[str, str] | None = None,
    splits: tuple[str | None, str | None] = (None, None), settings: dict | None = None, client_side: bool = False,
    force: bool = False, progress: Progress | None = None,
) -> Initialised:
    """Write `prune2deploy.toml` in `root`, once transformers' own pipeline answers as we do.

    Args:
        model: a directory, seen from `root`, or a hub id.
        data: a local file or directory, seen from `root`, or a hub data set `name[:config]`.
        root: the project's directory.
        task: None: the one that the model's class is for.
        columns: names of columns by role, where they cannot be guessed; an empty name says that there is none.
        splits: names of the calibration and the evaluation split; None: guessed.
        settings: further values of the project file.
        client_side: clients make the model's inputs themselves, so that it matters not whether a server could.
        force: go on where labels and model do not seem to fit together.
        progress: told how far it is.

    Raises InputError where the model or the data cannot be used, the pipeline answers otherwise, or the file exists.
    """
    progress = progress or Progress()
    path = root / PROJECT_FILE
    refuse_existing_project(path)
    directory = resolve_model(model, root)
    config = load_config(directory)
    refuse_pruned(directory)
    kind = task_named(task) if task else task_for(config)
    refuse_other_model(kind, directory, config)
    values, notes = described(model, data, root, kind, columns or {}, splits)
    values["workload"] = [kind.default_point(config).model_dump(exclude_none=True)]
    for key, value in (settings or {}).items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    project = project_from(values, root, "the project")
    looked_at = task_of(project, directory, config)  # what is wrong with the samples is better said now than later
    looked_at.label_names()
    evaluation = looked_at.evaluation()
    looked_at.calibration(project.calibration.samples, project.calibration.seed)
    notes += worth_a_look(directory)
    with progress.track("asking transformers' pipeline", 3) as advance:
        run = torch_run(load_dense(directory), looked_at)
        advance()
        testimony = heard(looked_at, run, evaluation, project, client_side)
        advance()
        some = drawn(evaluation)
        dense = None if some.labels is None else dense_score(looked_at, run, some, force)
        if dense and len(some) < len(evaluation):
            notes.append(f"the dense model was scored on {len(some)} of {len(evaluation)} samples, drawn by chance")
        advance()
    save_project(project, path)
    return Initialised(project, path, testimony, dense, notes)


def described(
    model: str, data: str, root: Path, kind: type[Task], columns: dict[str, str], splits: tuple[str | None, str | None]
) -> tuple[dict[str, Any], list[str]]:
    """The values of the project file, and notes of what there is in the data that they leave out."""
    if other := sorted(role for role, name in columns.items() if name and role not in kind.columns):
        raise InputError(f"task {kind.name} reads no {other[0]} column: leave out --{other[0].replace('_', '-')}")
    available = open_data(data, root)
    calibration, evaluation = guess_splits(available, data)
    chosen = (splits[0] or calibration, splits[1] or evaluation)
    calibrated, evaluated = (dict(available[split_name(split, available, data)].features) for split in chosen)
    features = {**evaluated, **calibrated}  # the calibration split may do without labels
    guessed = kind.guess_columns(features, columns, data)
    for role, name in guessed.items():
        if name and not kind.is_column(name, features):
            raise InputError(f"data {data!r} has no column {name!r} (for `{role}`); it has: {', '.join(features)}")
    notes = [f"not read: {', '.join(left)}"] if (left := left_out(data, root)) else []
    if unused := unused_splits(available, chosen):
        notes.append(f"splits that are not used: {', '.join(unused)}")
    if share_rows(*chosen):
        notes.append(f"calibration on {chosen[0]!r} sees rows of {chosen[1]!r}, so that scores will flatter")
    values: dict[str, Any] = {
        "model": model,
        "task": kind.name,
        "data": {"path": data, "calibration": chosen[0], "evaluation": chosen[1], "columns": guessed},
    }
    return values, notes


def heard(task: Task, run: Run, evaluation: Samples, project: Project, client_side: bool) -> Testimony:
    """What transformers' pipeline says of our reading and, unless `client_side`, of what a server would run.

    Raises InputError where it objects, or where a server cannot make the model's inputs.
    """
    outside = task.outside()
    testimony = reading(task, run, evaluation, outside)
    if testimony.objection:
        raise InputError(f"{project.model}: {testimony}")
    if client_side:
        return testimony
    with tempfile.TemporaryDirectory() as made:
        try:
            preprocessor = preprocessor_of(task, project.workload, Path(made))
        except NotServableError as error:
            raise InputError(f"{error}; {CLIENT_SIDE}") from None
        testimony = serving(task, chain_of(task, preprocessor, run), outside)
    if testimony.objection:
        raise InputError(f"{testimony}; {CLIENT_SIDE}")
    return testimony
