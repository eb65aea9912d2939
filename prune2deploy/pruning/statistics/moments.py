"""One streaming pass over calibration samples: the second moments that removal and re-fit work with.

For each block: the covariance of what goes into its output projection, and of the gradient that comes back to its
output. Their Kronecker product stands for the Fisher information of the projection's weights (K-FAC; Martens and Grosse
2015). Gradients are of the model's own predicted distribution, softened: no labels are needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.memory import give_back
from prune2deploy.models.block import Block
from prune2deploy.models.capture import in_model, passing
from prune2deploy.models.projection import output_projection, rows_in, rows_out
from prune2deploy.pruning.statistics.calibrate import Calibration, batch_generator, refuse_not_finite
from prune2deploy.pruning.statistics.linear_algebra import add_square_, mirror_
from prune2deploy.tasks.base import Batch
from prune2deploy.team import team

if TYPE_CHECKING:
    import torch
    from torch import nn

    Passed = tuple[Callable[[], torch.Tensor], torch.Tensor]  # of a call: rows into the projection, gradients at its output

CACHE = "moments"  # the folder of a file for each block, so that no copy of all of them is ever made
MOMENTS = ("mean", "covariance", "sensitivity")
FORMAT = 2.0  # of the files
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
    """Of all blocks. `weights`: per block and sample [calls, tokens] float32, how much the output matters at each token.

    A weight is the norm of the gradient relative to the block's mean over all tokens, mixed with `UNIFORM`.
    """

    blocks: dict[Block, BlockMoments]
    weights: dict[Block, list[np.ndarray]]

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
    norms: dict[Block, dict[int, np.ndarray]] = {block: {} for block in blocks}
    batches = calibration.batches()
    with calibration.progress.track("calibrating", len(batches)) as advance:
        for indices, batch, passed in passes(calibration, batches):
            for block, of_calls in passed.items():
                norms[block] |= _norms(indices, batch, [gradients for _, gradients in of_calls])
                for inputs, gradients in of_calls:
                    counted = batch.counted(gradients)
                    sums[block].add(inputs()[counted], gradients[counted])
            passed.clear()  # or it would stay in memory beside that of the next batch
            give_back()
            advance()
    weights = {block: _weights(_gathered(norms.pop(block), len(samples), block.calls)) for block in blocks}
    found = {block: sums.pop(block).moments(len(samples)) for block in blocks}
    for block, each in found.items():
        if not all(np.isfinite(getattr(each, name)).all() for name in MOMENTS):
            raise InputError(
                f"data {calibration.task.data.path!r}: what comes into {block} of the dense model, or the gradient there, "
                "is too large on some samples, or not finite"
            )
    return Moments(found, weights)


def _norms(indices: list[int], batch: Batch, gradients: "list[torch.Tensor]") -> dict[int, np.ndarray]:
    """By the index of each sample, [calls, tokens]: the length of the gradient."""
    counted = batch.counted(gradients[0]).cpu().numpy()
    lengths = np.stack([of_call.norm(dim=-1).cpu().numpy() for of_call in gradients], axis=1)
    return {index: lengths[row][:, counted[row]] for row, index in enumerate(indices)}


def _weights(norms: list[np.ndarray]) -> list[np.ndarray]:
    """What `Moments` says of weights."""
    mean = sum(float(array.sum(dtype=np.float64)) for array in norms) / sum(array.size for array in norms)
    scale = np.float32((1 - UNIFORM) / max(mean, np.finfo(np.float32).tiny))
    return [np.float32(UNIFORM) + array * scale for array in norms]


def _gathered(own: dict[int, np.ndarray], samples: int, calls: int) -> list[np.ndarray]:
    """The arrays [calls, tokens] of all samples, where every process has those of its `own`."""
    lengths = np.zeros(samples, dtype=np.int64)
    for index, array in own.items():
        lengths[index] = array.shape[1]
    team().add_up(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.zeros((calls, starts[-1]), dtype=np.float32)
    for index, array in own.items():
        flat[:, starts[index] : starts[index + 1]] = array
    team().add_up(flat)
    return _by_sample(flat, lengths)


def _by_sample(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """[calls, tokens] of each sample, out of those of all in a row."""
    return [np.ascontiguousarray(part) for part in np.split(flat, np.cumsum(lengths)[:-1], axis=1)]


class _Sums:
    """Running sums of one block, in float64, of products in float32 that are shifted by the first batch's means.

    Unshifted, they would be of the means alone where those are large against the spread (massive activations).
    """

    def __init__(self, calibration: Calibration, block: Block):
        import torch

        projection = output_projection(calibration.model, block)
        self.tokens = np.zeros(1, dtype=np.int64)
        k, d, device = projection.in_features, projection.out_features, projection.weight.device
        self.shift: torch.Tensor | None = None
        self.x = torch.zeros(k, dtype=torch.float64, device=device)
        self.xx, self.gg = (torch.zeros(size, size, dtype=torch.float64, device=device) for size in (k, d))

    def add(self, inputs: "torch.Tensor", gradients: "torch.Tensor") -> None:
        """Add tokens: inputs, [n, k], which are spoilt, and gradients, [n, d]."""
        if self.shift is None:
            self.shift = inputs.mean(0)
        inputs.sub_(self.shift)
        self.tokens += len(inputs)
        self.x += inputs.sum(0)
        for total, rows in ((self.xx, inputs), (self.gg, gradients)):
            product = total.new_zeros(total.shape, dtype=rows.dtype)
            add_square_(product, rows)
            total += product

    def moments(self, samples: int) -> BlockMoments:
        """Of what all processes have added."""
        for total in (self.xx, self.gg):
            mirror_(total)
        x, xx, gg = (total.cpu().numpy() for total in (self.x, self.xx, self.gg))
        own, of_own = self.tokens.copy(), x / max(1, int(self.tokens[0]))
        for row, of_row in zip(xx, of_own, strict=True):  # centred, in place: another one would take as much room again
            row -= own * of_row * of_own
        if self.shift is not None:
            of_own += self.shift.double().cpu().numpy()
        mean = own * of_own
        team().add_up(self.tokens, mean)
        mean /= self.tokens
        away = of_own - mean
        for row, of_row in zip(xx, away, strict=True):
            row += own * of_row * away
        team().add_up(xx, gg)
        xx /= self.tokens
        return BlockMoments(mean, xx.astype(np.float32), (gg / samples).astype(np.float32))


def passes(
    calibration: Calibration, batches: list[tuple[int, list[int]]]
) -> "Iterator[tuple[list[int], Batch, dict[Block, list[Passed]]]]":
    """(indices, batch, what passed each block in every call) of each of `batches`, (number, indices)."""
    import torch

    model, task, blocks = calibration.model, calibration.task, calibration.blocks
    given: dict[Block, list[tuple[nn.Module, torch.Tensor]]] = {}
    outputs: dict[Block, list[torch.Tensor]] = {}

    def entering(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> None:
        given.setdefault(block, []).append((module, hidden.detach()))

    def leaving(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> "torch.Tensor":
        outputs.setdefault(block, []).append(hidden if hidden.requires_grad else hidden.requires_grad_())
        return hidden

    with passing(in_model(model), blocks, given=entering, put_out=leaving):
        for number, indices in batches:
            batch = calibration.samples.batch(indices)
            said = task.said(model, batch.tensors(model.device))
            refuse_not_finite(said, task)
            known = {name: output.detach().cpu() for name, output in said.items()}
            generator = batch_generator(calibration.seed, number)
            probes = task.objective.fisher_probe(known, generator, batch.counts(), TEMPERATURE)
            probed = torch.stack([(probes[name].to(output.device) * output).sum() for name, output in said.items()]).sum()
            flat = iter(torch.autograd.grad(probed, [hidden for of_calls in outputs.values() for hidden in of_calls]))
            passed = {
                block: [_passed(module, hidden, next(flat), len(indices)) for module, hidden in given[block]]
                for block in outputs
            }
            for used in (given, outputs):  # or they would stay in memory beside those of the next batch
                used.clear()
            del said, probed
            yield indices, batch, passed


def _passed(module: "nn.Module", hidden: "torch.Tensor", gradients: "torch.Tensor", samples: int) -> "Passed":
    """What went into an output projection, as rows once it is asked for, and the gradients at its output, as rows."""
    return lambda: rows_in(module, hidden, samples), rows_out(module, gradients, samples)


def _write(moments: Moments, directory: Path) -> None:
    for block, found in moments.blocks.items():
        write_arrays(directory / f"{block.key}.safetensors", {name: getattr(found, name) for name in MOMENTS})
    arrays = {"settings": _settings()}
    for block, weights in moments.weights.items():
        arrays[f"weights.{block.key}"] = np.concatenate(weights, axis=1)
        arrays[f"lengths.{block.key}"] = np.asarray([array.shape[1] for array in weights])
    write_arrays(directory / WEIGHTS, arrays)


def _settings() -> np.ndarray:
    """What the arrays depend on beside the model and the samples: others of an older version are not used."""
    return np.array([TEMPERATURE, UNIFORM, FORMAT])


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
        weights = {
            block: _by_sample(last[f"weights.{block.key}"], last[f"lengths.{block.key}"]) for block in calibration.blocks
        }
    except (InputError, KeyError):
        return None
    return Moments(blocks, weights)
