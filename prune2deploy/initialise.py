"""The init stage: look at a model and its data, and write down what can be told from them."""

from pathlib import Path
from typing import Any

from prune2deploy.config import PROJECT_FILE, Project, project_from, refuse_existing_project, save_project
from prune2deploy.errors import InputError
from prune2deploy.models.checkpoint import load_config, refuse_pruned, resolve_model
from prune2deploy.tasks.data import guess_splits, open_data, split_name
from prune2deploy.tasks.registry import task_for, task_named, task_of


def init(
    model: str, data: str, root: Path, task: str | None = None, columns: dict[str, str] | None = None,
    splits: tuple[str | None, str | None] = (None, None), settings: dict | None = None,
) -> tuple[Project, Path]:
    """Write `prune2deploy.toml` in `root`, and return the project and the file's path.

    Args:
        model: a directory, seen from `root`, or a hub id.
        data: a local file or directory, seen from `root`, or a hub data set `name[:config]`.
        root: the project's directory.
        task: None: the one that the model's class is for.
        columns: names of columns by role, where they cannot be guessed; an empty name says that there is none.
        splits: names of the calibration and the evaluation split; None: guessed.
        settings: further values of the project file.

    Raises InputError where the model or the data cannot be used, or the file exists.
    """
    path = root / PROJECT_FILE
    refuse_existing_project(path)
    directory = resolve_model(model, root)
    config = load_config(directory)
    refuse_pruned(directory)
    kind = task_named(task) if task else task_for((config.architectures or ["none"])[0])
    available = open_data(data, root)
    calibration, evaluation = guess_splits(available, data)
    chosen = (splits[0] or calibration, splits[1] or evaluation)
    calibrated, evaluated = (dict(available[split_name(split, available, data)].features) for split in chosen)
    features = {**evaluated, **calibrated}  # the calibration split may do without labels
    guessed = kind.guess_columns(features, columns or {}, data)
    for role, name in guessed.items():
        if name and name not in features:
            raise InputError(f"data {data!r} has no column {name!r} (for `{role}`); it has: {', '.join(features)}")
    values: dict[str, Any] = {
        "model": model,
        "task": kind.name,
        "data": {
            "path": data,
            "calibration": chosen[0],
            "evaluation": chosen[1],
            "columns": guessed,
        },
        "workload": [kind.default_point().model_dump(exclude_none=True)],
    }
    for key, value in (settings or {}).items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    project = project_from(values, root, "the project")
    looked_at = task_of(project, directory, config)  # what is wrong with the samples is better said now than later
    looked_at.evaluation()
    looked_at.calibration(project.calibration.samples, project.calibration.seed)
    save_project(project, path)
    return project, path
