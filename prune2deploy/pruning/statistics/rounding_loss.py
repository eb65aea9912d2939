"""What it loses to compute a block in a lower precision, measured: the block is run so, and its error priced.

An error e of what a block puts out, at a token where the loss has the gradient g, counts ½ (g·e)² (the Gauss-Newton
form of the loss, as AutoQuantize of NVIDIA's ModelOpt takes it): in the units of `removal.py`, where the same is summed over
all errors that a change of weights makes. HAWQ-V2 (Dong et al. 2020) prices the weights alone, by the mean curvature:
½ · tr F · tr G / (outputs · inputs) · ‖E‖² for an error E of a matrix's weights.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block
from prune2deploy.models.capture import LayerCall, Reached, in_layer, passing, visits_of
from prune2deploy.models.input_rounding import round_inputs_
from prune2deploy.models.projection import linears_of, rows_in, rows_out
from prune2deploy.precisions import Rounding, grid_of, range_of
from prune2deploy.pruning.statistics.calibrate import Calibration
from prune2deploy.pruning.statistics.moments import BlockMoments, passes

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCHES = 8  # that blocks are run on in each precision: a pass over them takes what the forward passes take
Losses = dict[tuple[Block, str], float]


def rounding_losses(calibration: Calibration, precisions: Iterable[str], narrow: bool) -> Losses:
    """The expected loss, at its dense width, of each block in each of `precisions` that it can be in.

    `narrow`: see `precisions.Format`.
    """
    wanted = [
        (block, precision) for block in calibration.blocks for precision in precisions
        if linears_of(calibration.model.get_submodule(block.root), block)
    ]  # fmt: skip
    if not wanted:
        return {}
    every = calibration.batches()
    batches = every[:: max(1, len(every) // BATCHES)]
    found, samples = dict.fromkeys(wanted, 0.0), 0
    with calibration.progress.track("measuring what rounding loses", len(batches)) as advance:
        for each in batches:
            [(indices, batch, passed)] = passes(calibration, [each])  # to its end: what follows runs the model, too
            samples += len(indices)
            inputs = batch.tensors(calibration.model.device)
            calls: dict[str, list[LayerCall]] = {}
            for visit in visits_of(calibration.model, inputs):
                calls.setdefault(visit.root, []).append(visit.call)
            for block, precision in wanted:
                layer = calibration.model.get_submodule(block.root)
                for call, (_, gradients) in zip(calls[block.root], passed[block], strict=True):
                    error = error_of(layer, block, precision, narrow, call, len(indices))
                    priced = (error * gradients).sum(-1)[batch.counted(gradients)]
                    found[block, precision] += 0.5 * float(priced.double().square().sum())
            advance()
    return {key: total / samples for key, total in found.items()}


def mean_curvatures(moments: dict[Block, BlockMoments]) -> dict[Block, float]:
    """The mean of what a squared weight of each block's output projection counts: tr F · tr G / (outputs · inputs)."""
    found = {}
    for block, moment in moments.items():
        outputs, inputs = len(moment.sensitivity), len(moment.covariance)
        square = float(np.trace(moment.covariance) + np.square(moment.mean).sum()) / inputs
        found[block] = float(np.trace(moment.sensitivity)) / outputs * square
    return found


def coarse_losses(
    calibration: Calibration, curvatures: dict[Block, float], precisions: Iterable[str], narrow: bool
) -> Losses:
    """As `rounding_losses`, as HAWQ-V2 prices it: the rounding of weights alone, by `mean_curvatures`.

    That of a block's output projection stands for those of its other layers.
    """
    found: Losses = {}
    for block in calibration.blocks:
        layers = linears_of(calibration.model.get_submodule(block.root), block)
        for precision in precisions if layers else ():
            weights = map(_weight_of, layers.values())
            errors = [weight - grid_of(weight, precision, narrow).nearest(weight) for weight in weights]
            found[block, precision] = 0.5 * curvatures[block] * sum(float(np.square(error).sum()) for error in errors)
    return found


def error_of(
    layer: "nn.Module", block: Block, precision: str, narrow: bool, call: LayerCall, samples: int
) -> "torch.Tensor":
    """What `block`, in the dense `layer`, puts out too much in this precision, as rows, [samples, rows, outputs]."""
    given = _run(layer, block, call, samples)
    lower = rounded_layer(layer, block, precision, narrow, {path: values for path, values in given.items() if path})
    return _run(lower, block, call, samples)[""] - given[""]


def rounded_layer(
    layer: "nn.Module", block: Block, precision: str, narrow: bool, given: "dict[str, torch.Tensor]"
) -> "nn.Module":
    """A copy of `layer` whose `block` is in this precision, to nearest. `given`: what goes into its linear layers."""
    import copy

    import torch

    copied = copy.deepcopy(layer, {id(parameter): parameter for parameter in layer.parameters()})
    roundings = {}
    for path, module in linears_of(copied, block).items():
        weight = _weight_of(module)
        grid = grid_of(weight, precision, narrow)
        roundings[path] = Rounding(precision, grid.scale, *range_of(given[path].cpu().numpy()), narrow)
        near = torch.from_numpy(grid.nearest(weight))
        module.weight = torch.nn.Parameter(near.to(module.weight), requires_grad=False)
    round_inputs_(copied, roundings)
    return copied


def _run(layer: "nn.Module", block: Block, call: LayerCall, samples: int) -> "dict[str, torch.Tensor]":
    """What goes into each linear layer of `block`, by path, and, under "", what it puts out; as rows."""
    import torch

    seen: dict[str, torch.Tensor] = {}
    handles = []
    for path, module in linears_of(layer, block).items():
        def hook(module: "nn.Module", args: tuple, path: str = path) -> None:
            seen[path] = rows_in(module, args[0], samples)

        handles.append(module.register_forward_pre_hook(hook))

    def put_out(block: Block, module: "nn.Module", hidden: "torch.Tensor") -> None:
        seen[""] = rows_out(module, hidden, samples)
        raise Reached

    try:
        with torch.no_grad(), passing(in_layer(layer), [block], put_out=put_out):
            call.run(layer, call.hidden)
    except Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _weight_of(module: "nn.Linear") -> np.ndarray:
    return module.weight.detach().cpu().numpy()
