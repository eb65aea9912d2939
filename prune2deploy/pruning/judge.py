"""What every stage of pruning leaves of the model, measured on the same samples."""

import copy
import time
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import CheckFailedError, InputError
from prune2deploy.memory import give_back
from prune2deploy.models.checkpoint import StageResult
from prune2deploy.models.logit_scale import scale_logits_
from prune2deploy.models.surgery import running_shrunk
from prune2deploy.progress import Progress
from prune2deploy.pruning.methods.method import State
from prune2deploy.pruning.statistics.calibrate import not_finite
from prune2deploy.pruning.statistics.reconstruction_error import Reconstruction
from prune2deploy.tasks.base import Samples, Task
from prune2deploy.tasks.by_class import ByClass
from prune2deploy.tasks.objectives import Outputs
from prune2deploy.tasks.paired import loss_between
from prune2deploy.tasks.predict import finite, labels_of, metric_of, outputs_of, score_of, torch_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST_SCALE = 20.0  # of the logits, and one over it the smallest
ROUNDING = 1e-4  # of the divergence, by which weights that are scaled in float32 may raise it


class Stages:
    """Measures what every stage leaves of the model, on the same samples."""

    def __init__(
        self, dense: "PreTrainedModel", task: Task, held_out: Samples, evaluation: Samples, progress: Progress
    ):
        self.task, self.evaluation, self.held_out, self.progress = task, evaluation, held_out, progress
        run = finite(torch_run(dense, task), InputError(not_finite(task)))
        self.labels = labels_of(run, task, evaluation)
        self.classes = ByClass(task)
        self.metric = metric_of(run, task, evaluation, self.labels, self.classes)
        self.held_out_outputs = outputs_of(run, task, held_out)
        self.reconstruction = Reconstruction(dense, held_out)
        self.results: list[StageResult] = []
        self.best = float("inf")

    def afresh(self) -> "Stages":
        """For another plan of the same dense model."""
        other = copy.copy(self)
        other.results, other.best = [], float("inf")
        return other

    def dense(self, seconds: float) -> StageResult:
        """The dense model's own score; `seconds`: what calibration took."""
        score = score_of(self.metric, self.evaluation)
        return StageResult(
            stage="dense", score=score.value, standard_error=score.standard_error, metric=score.metric, n=score.n,
            reconstruction_error=0.0, divergence=0.0, seconds=round(seconds, 2), notes=["seconds: calibration"],
        )  # fmt: skip

    def add(self, stage: str, state: State, seconds: float, asked_for: bool = False) -> bool:
        """Score `state` after `stage`, which took `seconds`; whether it is the nearest to the dense model so far.

        A stage that is `asked_for` stays, whatever it does. Before all that, the model's logits are scaled, in place, to be
        as sure as the dense model's. What decides is held out from statistics and from evaluation; the evaluation score is
        reported, never used.
        """
        broken = CheckFailedError(f"{stage} broke the model: its outputs are not finite")
        run = finite(torch_run(state.model, self.task), broken)
        with self.progress.track(f"scoring after {stage}", 1) as advance, running_shrunk(state.model, state.plan):
            outputs = outputs_of(run, self.task, self.held_out)
            scale, divergence = best_scale(self.task, outputs, self.held_out_outputs)
            scale_logits_(state.model, scale)
            classes = ByClass(self.task)
            metric = metric_of(run, self.task, self.evaluation, self.labels, classes)
            error = self.reconstruction.error(state.model)
            if not np.isfinite([divergence, error]).all():
                raise CheckFailedError(f"{stage} broke the model: it is not finite how far it is from the dense one")
            give_back()
            advance()
        score, lost = score_of(metric, self.evaluation), loss_between(self.metric, metric)
        kept = asked_for or divergence <= self.best * (1 + ROUNDING)
        notes = list(state.notes)
        if kept:
            self.best = divergence
        else:
            notes.append(f"not kept: on held-out samples the divergence rose from {self.best:.3g} to {divergence:.3g}")
        notes += [str(change) for change in classes.against(self.classes) if change.collapsed]
        self.results.append(StageResult(
            stage=stage, score=score.value, standard_error=score.standard_error, metric=score.metric, n=score.n,
            lost_standard_error=lost.standard_error, reconstruction_error=error, divergence=divergence, logit_scale=scale,
            kept=kept, seconds=round(seconds, 2), notes=notes,
        ))  # fmt: skip
        self.progress.note(f"after {stage}: {score}, {lost}, reconstruction error {error:.3f}, divergence {divergence:.3g}")
        for note in notes:
            self.progress.note(f"{stage}: {note}")
        return kept


def best_scale(task: Task, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
    """The factor, up to `LARGEST_SCALE`, that brings `outputs` nearest to `reference`, and their divergence then.

    It is 1 where a factor would mean something else than how sure the model is.

    A pruned model errs more often than it says. What pruning is judged by must not be how sure the model is: that is mended
    by one factor, which changes no prediction (temperature scaling, Guo et al. 2017).
    """
    from scipy.optimize import minimize_scalar

    def divergence(log_scale: float) -> float:
        factor = np.exp(log_scale)
        return task.objective.divergence({name: said.times(factor) for name, said in outputs.items()}, reference)

    limit, as_it_is = np.log(LARGEST_SCALE), divergence(0.0)
    if not task.objective.scalable:
        return 1.0, as_it_is
    found = minimize_scalar(divergence, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return (float(np.exp(found.x)), float(found.fun)) if found.fun < as_it_is else (1.0, as_it_is)


class Stopwatch:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return seconds
