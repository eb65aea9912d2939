"""One streaming pass over calibration samples: the gradient of each sample's loss to every unit's mask."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.models.block import Block
from prune2deploy.models.capture import in_model, passing
from prune2deploy.models.family import blocks_of
from prune2deploy.models.projection import output_projection, times
from prune2deploy.progress import Progress
from prune2deploy.pruning.statistics.streams import lengths_of
from prune2deploy.tasks.base import Batch, Samples, Task, grouped
from prune2deploy.team import team

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BATCH = 32
ACTIVATIONS = 30_000_000  # numbers that a batch leaves behind for its backward pass, 120 MB


@dataclass
class Calibration:
    """Everything that a method may draw its statistics from."""

    model: "PreTrainedModel"  # dense; methods leave it as it is
    task: Task
    samples: Samples
    seed: int
    progress: Progress
    cache: Path | None = None  # a folder for statistics, so that an interrupted run finds them again
    effort: int = 0  # profiles of widths that a search may try beyond the knapsack's own
    narrow: bool = False  # whether 8-bit weights have 7 on the target (`precisions.Format`)

    def __post_init__(self) -> None:
        self.blocks = blocks_of(self.model)

    def batches(self) -> list[tuple[int, list[int]]]:
        """(number, indices of samples) of the batches that this process takes; small enough to go back through."""
        projections = [(block.calls, output_projection(self.model, block)) for block in self.blocks]
        passed = sum(calls * (each.in_features + each.out_features) for calls, each in projections)
        for_each_token = 3 * (passed + self.samples.outputs_each)
        lengths = lengths_of(self.model, self.samples).tolist()
        every = grouped(self.samples.order(), lengths, BATCH, ACTIVATIONS // for_each_token)
        ours = team()
        return list(enumerate(every))[ours.rank :: ours.size]


@dataclass(frozen=True)
class Fisher:
    """Empirical Fisher information of the mask variables, averaged over samples (Kwon et al. 2022, equation 5).

    `diagonal`: [units] float64 per block; `matrix`: [units, units] float32 per block, mean of g gᵀ.
    """

    diagonal: dict[Block, np.ndarray]
    matrix: dict[Block, np.ndarray]


def batch_generator(seed: int, number: int) -> "torch.Generator":
    """Random numbers for batch `number`, the same whichever process comes to it, and after whatever others."""
    import torch

    state = np.random.SeedSequence([seed, number]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def mask_gradients(
    calibration: Calibration, batches: Iterable[tuple[int, Batch]], total: int
) -> "Iterator[dict[Block, torch.Tensor]]":
    """For each numbered batch, the gradient of every sample's loss to every mask, [batch, units] per block.

    A mask multiplies what its unit feeds into the output projection, and stands at 1. Labels that the data lacks are
    drawn from the model's own predictions, for which the gradients' covariance is the true Fisher information.
    Raises InputError where a loss or the square of a gradient is not finite.
    """
    import torch

    model, task, blocks = calibration.model, calibration.task, calibration.blocks
    masks: dict[Block, torch.Tensor] = {}

    def masked(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> "torch.Tensor":
        return times(module, hidden, masks[block].repeat_interleave(block.columns, dim=1))

    with calibration.progress.track("calibrating", total) as advance, passing(in_model(model), blocks, given=masked):
        for number, batch in batches:
            inputs = batch.tensors()
            size = len(next(iter(inputs.values())))
            masks.update({block: torch.ones(size, block.units, requires_grad=True) for block in blocks})
            outputs, counted = task.said(model, inputs), batch.counts()
            labels = None if batch.labels is None else task.targets(batch.labels)
            if labels is None:
                known = {name: tensor.detach() for name, tensor in outputs.items()}
                labels = task.objective.sampled_labels(known, batch_generator(calibration.seed, number), counted)
            loss = task.objective.losses(outputs, labels, counted).sum()
            if not torch.isfinite(loss):
                raise InputError(f"data {task.data.path!r}: the dense model's loss is not finite on some samples")
            gradients = torch.autograd.grad(loss, list(masks.values()))
            if not all(gradient.square().sum().isfinite() for gradient in gradients):  # squares are what they are for
                raise InputError(
                    f"data {task.data.path!r}: the dense model's gradients are too large on some samples, or not finite"
                )
            yield dict(zip(masks, gradients, strict=True))
            advance()


def refuse_not_finite(said: "dict[str, torch.Tensor]", task: Task) -> None:
    """Raise InputError where the dense model's outputs for samples of `task` are not finite."""
    if not all(output.isfinite().all() for output in said.values()):
        raise InputError(not_finite(task))


def not_finite(task: Task) -> str:
    """What to say of the dense model then."""
    return f"data {task.data.path!r}: the dense model's outputs are not finite on some samples"


def fisher_information(calibration: Calibration) -> Fisher:
    """The Fisher information over all calibration samples, in one pass; taken from the cache where it is there."""
    stored = calibration.cache / "fisher.safetensors" if calibration.cache else None
    if stored and stored.is_file() and (found := _read(stored, calibration.blocks)):
        return found
    diagonal = {block: np.zeros(block.units) for block in calibration.blocks}
    matrix = {block: np.zeros((block.units, block.units), dtype=np.float32) for block in calibration.blocks}
    samples, chosen = calibration.samples, calibration.batches()
    batches = ((number, samples.batch(indices)) for number, indices in chosen)
    for gradients in mask_gradients(calibration, batches, len(chosen)):
        for block, gradient in gradients.items():
            diagonal[block] += gradient.double().square().sum(0).numpy()
            matrix[block] += (gradient.T @ gradient).numpy()
    team().add_up(*diagonal.values(), *matrix.values())
    n = len(samples)
    fisher = Fisher({b: d / n for b, d in diagonal.items()}, {b: m / np.float32(n) for b, m in matrix.items()})
    if stored and team().leads:
        _write(fisher, stored)
    return fisher


def _write(fisher: Fisher, path: Path) -> None:
    arrays = {f"diagonal.{block.key}": array for block, array in fisher.diagonal.items()}
    arrays |= {f"matrix.{block.key}": array for block, array in fisher.matrix.items()}
    write_arrays(path, arrays)


def _read(path: Path, blocks: list[Block]) -> Fisher | None:
    """What `_write` wrote; None where the file is damaged, so that the pass is made again."""
    try:
        arrays = read_arrays(path)
        return Fisher({b: arrays[f"diagonal.{b.key}"] for b in blocks}, {b: arrays[f"matrix.{b.key}"] for b in blocks})
    except (InputError, KeyError):
        path.unlink(missing_ok=True)
        return None
