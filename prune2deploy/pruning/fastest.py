"""The other way round: not the best model within a budget, but the fastest one that loses no more than it may."""

import math
from pathlib import Path

from prune2deploy.budget import Budget, refuse_silly_loss
from prune2deploy.errors import CheckFailedError
from prune2deploy.models.checkpoint import load
from prune2deploy.pruning.search.fit import highest_speedup
from prune2deploy.pruning.shelf import Shelf
from prune2deploy.pruning.workbench import HELD_OUT, UNSEEN, Workbench
from prune2deploy.tasks.paired import Loss, loss_between
from prune2deploy.tasks.predict import labels_of, metric_of, torch_run

SLOWEST, FASTEST = 1.05, 8.0  # speedups that are looked between
PRECISE = 1.04  # ratio of the speedups that enclose the answer, at which the search ends


def fastest(shelf: Shelf, max_loss: float) -> Path:
    """The directory of the fastest model on `shelf` that loses at most `max_loss` points, by bisection of the speedup.

    The loss is taken on calibration samples that neither statistics nor the choice of steps have seen. Raises
    CheckFailedError where even a hardly faster model loses more, and InputError.
    """
    refuse_silly_loss(max_loss)
    workbench = shelf.workbench
    loss_of = UnseenLoss(workbench)
    slow, fast = SLOWEST, min(FASTEST, highest_speedup(workbench.table[0]))
    best: Path | None = None
    least: Loss | None = None
    while fast / slow > PRECISE:
        speedup = round((slow * fast) ** 0.5, 2)  # as somebody would ask for it
        left = math.ceil(math.log2(math.log(fast / slow) / math.log(PRECISE)))
        models = "model" if left == 1 else "models"
        workbench.progress.note(f"between {slow:.3g}× and {fast:.3g}×, at most {left} {models} to go; now {speedup:g}×")
        try:
            directory = shelf.at(Budget(kind="speedup", value=speedup))
        except CheckFailedError as error:
            workbench.progress.note(f"{speedup:g}× is not to be had: {error}")
            fast = speedup
            continue
        lost = loss_of(directory)
        least = lost if least is None or lost.points < least.points else least
        workbench.progress.note(f"{speedup:g}× {lost} on {lost.n} unseen calibration samples")
        if doubt := lost.doubt(max_loss):
            workbench.progress.note(f"warning: {doubt}")
        if lost.points <= max_loss:
            best, slow = directory, speedup
        else:
            fast = speedup
    if best is None:
        found = f"the one that lost least {least}" if least else "none could be made"
        raise CheckFailedError(
            f"no model that is faster than the dense one loses at most {max_loss:g} points on unseen calibration "
            f"samples: {found}; allow more, or give more calibration samples"
        )
    return best


class UnseenLoss:
    """Points of the task metric that a pruned model loses on samples that nothing was fitted to or chosen by.

    Where the calibration split has no such samples left, those that steps were judged on have to do.
    """

    def __init__(self, workbench: Workbench):
        settings = workbench.project.calibration
        self.task = workbench.task
        reserve = self.task.reserve(UNSEEN, settings.seed, settings.samples + HELD_OUT) or workbench.left_over
        self.samples = reserve if len(reserve) > len(workbench.held_out) else workbench.held_out
        with workbench.progress.track("scoring the dense model", 1) as advance:
            run = torch_run(workbench.model, self.task)
            self.labels = labels_of(run, self.task, self.samples)
            self.dense = metric_of(run, self.task, self.samples, self.labels)
            advance()

    def __call__(self, directory: Path) -> Loss:
        """What the model in `directory` loses."""
        run = torch_run(load(directory), self.task)
        return loss_between(self.dense, metric_of(run, self.task, self.samples, self.labels))
