"""What every stage of pruning leaves of the model, measured on the same samples."""

import copy
import time
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import CheckFailedError
from prune2deploy.memory import give_back
from prune2deploy.models.checkpoint import StageResult
from prune2deploy.models.surgery import running_shrunk, scale_logits_
from prune2deploy.progress import Progress
from prune2deploy.pruning.calibrate import refuse_not_finite
from prune2deploy.pruning.method import State
from prune2deploy.pruning.streams import Reconstruction
from prune2deploy.tasks.base import Samples, Task
from prune2deploy.tasks.predict import outputs_of, score_outputs, torch_run

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
        self.outputs = outputs_of(torch_run(dense), evaluation)
        self.held_out_outputs = outputs_of(torch_run(dense), held_out)
        for outputs in (self.outputs, self.held_out_outputs):
            refuse_not_finite(outputs, task)
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
        score = score_outputs(self.outputs, self.task, self.evaluation, self.outputs)
        return StageResult(
            stage="dense", score=score.value, standard_error=score.standard_error, metric=score.metric, n=score.n,
            reconstruction_error=0.0, divergence=0.0, seconds=round(seconds, 2), notes=["seconds: calibration"],
        )  # fmt: skip

    def add(self, stage: str, state: State, seconds: float) -> bool:
        """Score `state` after `stage`, which took `seconds`; whether it is the nearest to the dense model so far.

        Before that, the model's logits are scaled, in place, to be as sure as the dense model's. What decides is held out
        from statistics and from evaluation; the evaluation score is reported, never used.
        """
        run = torch_run(state.model)
        with self.progress.track(f"scoring after {stage}", 1) as advance, running_shrunk(state.model, state.plan):
            outputs = outputs_of(run, self.held_out)
            if not np.isfinite(outputs).all():
                raise CheckFailedError(f"{stage} broke the model: its outputs are not finite")
            scale, divergence = best_scale(self.task, outputs, self.held_out_outputs)
            scale_logits_(state.model, scale)
            evaluated = outputs_of(run, self.evaluation)
            error = self.reconstruction.error(state.model)
            if not (np.isfinite(evaluated).all() and np.isfinite([divergence, error]).all()):
                raise CheckFailedError(f"{stage} broke the model: it is not finite how far it is from the dense one")
            score = score_outputs(evaluated, self.task, self.evaluation, self.outputs)
            give_back()
            advance()
        kept = divergence <= self.best * (1 + ROUNDING)
        notes = list(state.notes)
        if kept:
            self.best = divergence
        else:
            notes.append(f"not kept: on held-out samples the divergence rose from {self.best:.3g} to {divergence:.3g}")
        self.results.append(StageResult(
            stage=stage, score=score.value, standard_error=score.standard_error, metric=score.metric, n=score.n,
            reconstruction_error=error, divergence=divergence, logit_scale=scale, kept=kept, seconds=round(seconds, 2),
            notes=notes,
        ))  # fmt: skip
        self.progress.note(f"after {stage}: {score}, reconstruction error {error:.3f}, divergence {divergence:.3g}")
        for note in notes:
            self.progress.note(f"{stage}: {note}")
        return kept


def best_scale(task: Task, outputs: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The factor, up to `LARGEST_SCALE`, that brings `outputs` nearest to `reference`, and their divergence then.

    A pruned model errs more often than it says. What pruning is judged by must not be how sure the model is: that is mended
    by one factor, which changes no prediction (temperature scaling, Guo et al. 2017).
    """
    from scipy.optimize import minimize_scalar

    def divergence(log_scale: float) -> float:
        return task.divergence(np.exp(log_scale) * outputs, reference)

    limit, as_it_is = np.log(LARGEST_SCALE), divergence(0.0)
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
