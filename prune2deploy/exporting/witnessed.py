"""What the outside witness says of a package: transformers' own pipeline, on raw samples."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune2deploy.config import Project
from prune2deploy.errors import InputError, NotServableError
from prune2deploy.models.input_rounding import exact_inputs
from prune2deploy.runtimes.base import Arrays, Engine
from prune2deploy.tasks.base import Run, Samples, Task
from prune2deploy.tasks.predict import torch_run
from prune2deploy.validation.assess import Subject, rounds_by_call
from prune2deploy.validation.record import Check
from prune2deploy.validation.witness import TOLERANCE, Preprocessor, chain_of, preprocessor_of, reading, serving

READ = "dense model as transformers' pipeline has it"
PACKAGED = "package answers as transformers' pipeline"


class PyTorch(Engine):
    """A model in PyTorch in the place of an engine."""

    def __init__(self, run: Run):
        self._run = run

    def run(self, inputs: Arrays) -> Arrays:
        """See Engine."""
        return self._run(inputs)


@contextmanager
def comparable(subject: Subject, graph: Engine) -> Iterator[Engine]:
    """While open, what raw samples are put through in the place of `graph`.

    Where inputs are rounded by the range of a call, answers depend on padding and on the other samples, and no two ways to
    one answer are alike: both sides are then the pruned model without that rounding.
    """
    if not rounds_by_call(subject.record.plan):
        yield graph
        return
    with exact_inputs(subject.pruned):
        yield PyTorch(torch_run(subject.pruned, subject.task))


def refuse_unservable(project: Project, task: Task) -> None:
    """Raise InputError, before any work, where a server is to make the model's inputs of raw samples and cannot.

    Nor can it answer for a task whose outputs are no answers.
    """
    if not project.serving.with_tokenizer:
        return
    if task.serving is None:
        raise InputError(f"{task.name} gives nothing that a server could answer with; leave out --with-tokenizer")
    with tempfile.TemporaryDirectory() as made:
        try:
            task.write_preprocessing(Path(made), project.workload)
        except NotServableError as error:
            raise InputError(f"{error}; leave out --with-tokenizer, and let clients make the model's inputs") from None


def witness_checks(
    subject: Subject, graph: Engine, tolerance: float, evaluation: Samples, preprocessor: Preprocessor | None
) -> list[Check]:
    """Our dense model against the pipeline on the user's, and raw samples through the package against the pruned model's.

    `graph`: the exported one, which may be off by `tolerance`; `preprocessor`: of the package, where it makes the model's
    inputs. Where clients make them, and a server could not, they are as we make them.
    """
    task = subject.task
    dense = reading(task, torch_run(subject.dense, task), evaluation, task.outside())
    outside, tolerance = task.outside(subject.pruned), max(TOLERANCE, tolerance)
    with tempfile.TemporaryDirectory() as made:
        try:
            served = preprocessor or preprocessor_of(task, subject.project.workload, Path(made))
            packaged = serving(task, chain_of(task, served, graph.run), outside, tolerance)
        except NotServableError:
            packaged = reading(task, graph.run, evaluation, outside, tolerance)
    return [dense.as_check(READ), packaged.as_check(PACKAGED)]
