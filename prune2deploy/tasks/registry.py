"""From a project or a model to its task."""

from typing import TYPE_CHECKING

from prune2deploy.config import Project
from prune2deploy.errors import InputError
from prune2deploy.models.family import class_of, has_labels
from prune2deploy.tasks.base import Task
from prune2deploy.tasks.embeddings import Embeddings
from prune2deploy.tasks.image_classification import ImageClassification
from prune2deploy.tasks.image_embeddings import ImageEmbeddings
from prune2deploy.tasks.masked_lm import MaskedLm
from prune2deploy.tasks.multi_label import MultiLabel
from prune2deploy.tasks.multiple_choice import MultipleChoice
from prune2deploy.tasks.next_token import NextToken
from prune2deploy.tasks.question_answering import QuestionAnswering
from prune2deploy.tasks.segmentation import Segmentation
from prune2deploy.tasks.text_classification import TextClassification
from prune2deploy.tasks.text_scores import TextScores
from prune2deploy.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

# of two that a model is for, the first is meant where the user does not say
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        TextScores, TextClassification, MultiLabel, TokenClassification, QuestionAnswering, MultipleChoice, MaskedLm,
        Embeddings, ImageClassification, ImageEmbeddings, Segmentation, NextToken,
    )
}  # fmt: skip


def task_named(name: str) -> type[Task]:
    """The task called `name`; raises InputError, naming those there are."""
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; known are: {', '.join(sorted(TASKS))}")
    return TASKS[name]


def task_for(config: "PretrainedConfig") -> type[Task]:
    """The task that models with this configuration are for."""
    for task in TASKS.values():
        if task.is_for(config):
            return task
    raise InputError(f"no task for {class_of(config)}; known tasks are: {', '.join(sorted(TASKS))}")


def task_of(project: Project, model_dir: "Path", config: "PretrainedConfig") -> Task:
    """The project's task on this model; raises InputError where the two do not fit."""
    task = task_named(project.task)
    refuse_other_model(task, model_dir, config)
    if unknown := sorted(set(project.data.columns) - set(task.columns)):
        raise InputError(f"data.columns: {task.name} has no {unknown[0]!r}; it has: {', '.join(task.columns)}")
    made = task(model_dir, config, project.data, project.root, project.scoring)
    for point in project.workload:
        made.check_point(point)
    return made


def refuse_other_model(task: type[Task], model_dir: "Path", config: "PretrainedConfig") -> None:
    """Raise InputError, naming the task that fits, where `task` is not for models with this configuration."""
    if not task.is_for(config):
        count = f" with {config.num_labels} output{'s'[: config.num_labels > 1]}" if has_labels(config) else ""
        wanted = f"…{task.architecture_suffix}{task.needs}"
        fitting = [other.name for other in TASKS.values() if other.is_for(config)]
        advice = f": give --task {' or '.join(fitting)}" if fitting else ""
        raise InputError(f"task {task.name} needs a model {wanted}; {model_dir} is a {class_of(config)}{count}{advice}")
