"""One streaming pass over calibration samples: the second moments that removal and re-fit work with.

For each block: the covariance of what goes into its output projection, and of the gradient that comes back to its
output. Their Kronecker product stands for the Fisher information of the projection's weights (K-FAC; Martens and Grosse
2015). Gradients are of the model's own predicted distribution, softened: no labels are needed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.memory import give_back
from prune2deploy.models.family import Block
from prune2deploy.models.registry import output_projection
from prune2deploy.pruning.calibrate import Calibration, batch_generator
from prune2deploy.pruning.linear_algebra import add_square_, mirror_
from prune2deploy.team import team

if TYPE_CHECKING:
    import torch
    from torch import nn

    ByBlock = dict[Block, torch.Tensor]

CACHE = "moments"  # the folder of a file for each block, so that no copy of all of them is ever made
MOMENTS = ("mean", "covariance", "sensitivity")
WEIGHTS = "weights.safetensors"  # the last to be written
TEMPERATURE = 4.0  # that softens predictions: as they are, undecided samples would count many times as much as others
UNIFORM = 0.3  # of a token's weight that does not depend on its gradient: later blocks may come to need any token


@dataclass(frozen=True)
class BlockMoments:
    """Of one block with k input columns and d outputs of its output projection, over all valid tokens; float32."""

    mean: np.ndarray  # [k], of the inputs
    covariance: np.ndarray  # [k, k], of the inputs, centred
    sensitivity: np.ndarray  # [d, d]: mean over samples of Σ_tokens g gᵀ, g the gradient at the block's output


@dataclass(frozen=True)
class Moments:
    """Of all blocks. `weights`: per sample [blocks, tokens] float32, how much the block's output matters at that token.

    A weight is the norm of the gradient relative to the block's mean over all tokens, mixed with `UNIFORM`.
    """

    blocks: dict[Block, BlockMoments]
    weights: list[np.ndarray]

    def without_covariances(self) -> "Moments":
        """The same without what takes nearly all of the memory, once the removal curves are known."""
        nothing = np.zeros((0, 0), dtype=np.float32)
        return Moments({block: replace(found, covariance=nothing) for block, found in self.blocks.items()}, self.weights)


def moments_of(calibration: Calibration) -> Moments:
    """The moments over all calibration samples; taken from the cache where they are there.

    Raises InputError where the model's outputs or the moments are not finite.
    """
    stored = calibration.cache / CACHE if calibration.cache else None
    if stored and (found := _read(stored, calibration)):
        return found
    moments = _measure(calibration)
    if stored and team().leads:
        _write(moments, stored)
    return moments


def _measure(calibration: Calibration) -> Moments:
    samples, blocks = calibration.samples, calibration.blocks
    sums = {block: _Sums(calibration, block) for block in blocks}
    weights: dict[int, np.ndarray] = {}
    batches = calibration.batches()
    with calibration.progress.track("calibrating", len(batches)) as advance:
        for indices, inputs, gradients, valid in passes(calibration, batches):
            norms = np.stack([gradients[block].norm(dim=-1).cpu().numpy() for block in blocks], axis=1)
            for row, counted in enumerate(valid.cpu().numpy()):
                weights[indices[row]] = norms[row][:, counted]
            for block, total in sums.items():
                total.add(inputs[block][valid], gradients[block][valid])
            give_back()
            advance()
    ordered = _gathered(weights, len(samples), len(blocks))
    tokens = sum(array.shape[1] for array in ordered)
    mean = sum(array.sum(axis=1, dtype=np.float64) for array in ordered) / tokens
    scale = ((1 - UNIFORM) / np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)[:, None]
    found = {block: sums.pop(block).moments(len(samples)) for block in blocks}
    for block, each in found.items():
        if not all(np.isfinite(getattr(each, name)).all() for name in MOMENTS):
            raise InputError(
                f"data {calibration.task.data.path!r}: what comes into {block} of the dense model, or the gradient there, "
                "is too large on some samples, or not finite"
            )
    return Moments(found, [np.float32(UNIFORM) + array * scale for array in ordered])


def _gathered(own: dict[int, np.ndarray], samples: int, blocks: int) -> list[np.ndarray]:
    """The arrays [blocks, tokens] of all samples, where every process has those of its `own`."""
    lengths = np.zeros(samples, dtype=np.int64)
    for index, array in own.items():
        lengths[index] = array.shape[1]
    team().add_up(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.zeros((blocks, starts[-1]), dtype=np.float32)
    for index, array in own.items():
        flat[:, starts[index] : starts[index + 1]] = array
    team().add_up(flat)
    return _by_sample(flat, lengths)


def _by_sample(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """[blocks, tokens] of each sample, out of those of all in a row."""
    return [np.ascontiguousarray(part) for part in np.split(flat, np.cumsum(lengths)[:-1], axis=1)]


class _Sums:
    """Running sums of one block. Products are in float32: at a width of 3,072, one matrix has 38 MB already."""

    def __init__(self, calibration: Calibration, block: Block):
        import torch

        projection = output_projection(calibration.model, block)
        self.tokens = np.zeros(1, dtype=np.int64)
        k, d, device = projection.in_features, projection.out_features, projection.weight.device
        self.x = torch.zeros(k, dtype=torch.float64, device=device)
        self.xx, self.gg = (torch.zeros(size, size, device=device) for size in (k, d))

    def add(self, inputs: "torch.Tensor", gradients: "torch.Tensor") -> None:
        self.tokens += len(inputs)
        self.x += inputs.sum(0)
        add_square_(self.xx, inputs)
        add_square_(self.gg, gradients)

    def moments(self, samples: int) -> BlockMoments:
        """Of what all processes have added."""
        for total in (self.xx, self.gg):
            mirror_(total)
        x, xx, gg = (total.cpu().numpy() for total in (self.x, self.xx, self.gg))
        team().add_up(self.tokens, x, xx, gg)
        mean = x / self.tokens
        for row, of_row in zip(xx, mean, strict=True):  # in place: in float64 the whole of it would take twice the room
            row[:] = row / self.tokens - of_row * mean
        return BlockMoments(mean, xx, gg / np.float32(samples))


def passes(
    calibration: Calibration, batches: list[tuple[int, list[int]]]
) -> "Iterator[tuple[list[int], ByBlock, ByBlock, torch.Tensor]]":
    """(indices, inputs, gradients at outputs, valid [batch, tokens]) of each of `batches`, (number, indices)."""
    import torch

    model, task = calibration.model, calibration.task
    with _watched(calibration) as (inputs, outputs):
        for number, indices in batches:
            batch = calibration.samples.batch(indices)
            logits = model(**batch.tensors(model.device)).logits
            if not torch.isfinite(logits).all():
                raise InputError(f"data {task.data.path!r}: the dense model's outputs are not finite on some samples")
            probe = task.fisher_probe(logits.detach().cpu() / TEMPERATURE, batch_generator(calibration.seed, number))
            probed = (probe.to(logits.device) * logits).sum()
            gradients = dict(zip(outputs, torch.autograd.grad(probed, list(outputs.values())), strict=True))
            yield indices, inputs, gradients, batch.counted(next(iter(gradients.values())))
            for used in (inputs, outputs, gradients):  # or they would stay in memory beside those of the next batch
                used.clear()


@contextmanager
def _watched(calibration: Calibration) -> "Iterator[tuple[ByBlock, ByBlock]]":
    """Inputs and outputs of every output projection, as the last forward pass left them."""
    inputs: dict[Block, torch.Tensor] = {}
    outputs: dict[Block, torch.Tensor] = {}

    def watching(block: Block) -> Callable[..., Any]:
        def hook(module: "nn.Module", args: "tuple[torch.Tensor, ...]", output: "torch.Tensor") -> "torch.Tensor":
            inputs[block] = args[0].detach()
            outputs[block] = output if output.requires_grad else output.requires_grad_()
            return output

        return hook

    model = calibration.model
    handles = [output_projection(model, block).register_forward_hook(watching(block)) for block in calibration.blocks]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def _write(moments: Moments, directory: Path) -> None:
    for block, found in moments.blocks.items():
        write_arrays(directory / f"{block.key}.safetensors", {name: getattr(found, name) for name in MOMENTS})
    lengths = np.asarray([array.shape[1] for array in moments.weights])
    weights = np.concatenate(moments.weights, axis=1)
    write_arrays(directory / WEIGHTS, {"weights": weights, "lengths": lengths, "settings": _settings()})


def _settings() -> np.ndarray:
    """What the arrays depend on beside the model and the samples: others of an older version are not used."""
    return np.array([TEMPERATURE, UNIFORM])


def _read(directory: Path, calibration: Calibration) -> Moments | None:
    """What `_write` wrote; None where it is damaged, cut short or older, so that the pass is made again."""
    try:
        last = read_arrays(directory / WEIGHTS)
        if not np.array_equal(last["settings"], _settings()):
            return None
        blocks = {}
        for block in calibration.blocks:
            arrays = read_arrays(directory / f"{block.key}.safetensors")
            blocks[block] = BlockMoments(*(arrays[name] for name in MOMENTS))
        weights = _by_sample(last["weights"], last["lengths"])
    except (InputError, KeyError):
        return None
    return Moments(blocks, weights)
