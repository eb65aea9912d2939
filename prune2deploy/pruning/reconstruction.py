"""Block reconstruction: what the re-fit does for a block's output projection, for all of the block's weights.

What feeds the output projection goes through a softmax or an activation, so there is no closed form; a fixed, small
number of gradient steps on the re-fit's own objective takes its place. Every block is on its own: nothing is propagated
through the model, and there is neither a label nor a task loss (as in post-training quantization: BRECQ, Li et al. 2021).
"""

import copy
import math
from typing import TYPE_CHECKING, cast

import numpy as np

from prune2deploy.models.family import Block
from prune2deploy.models.plan import Plan
from prune2deploy.models.registry import blocks_of, family_of, layers_of
from prune2deploy.models.surgery import shrink_block_, write_back_
from prune2deploy.progress import Progress
from prune2deploy.pruning.moments import Moments
from prune2deploy.pruning.streams import Streams
from prune2deploy.tasks.base import Samples

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

EPOCHS = 10  # passes over the samples at an error of a quarter or more; fewer where there is less to mend
TOKENS = 430_000  # in all passes, so that longer samples do not take longer: ten times those of 2,048 sentences
NARROW = 384  # hidden size up to which there are so many passes; wider blocks get fewer, and cost no more than one so wide
STEP_BATCHES = 2  # batches of `streams.BATCH` samples that a step is taken on
EVEN = 0.8  # how much of the metric counts all directions of the output alike; the rest goes by their Fisher information
RATE = 0.03  # a step's size relative to the weights' root mean square at an error of a quarter or more; falls to 0


def reconstruct(
    dense: "PreTrainedModel", pruned: "PreTrainedModel", plan: Plan, moments: Moments, samples: Samples, seed: int,
    progress: Progress,
) -> None:
    """Fit, in place, all weights of every block of the masked model `pruned`, in forward order.

    Minimises the weighted distance (see `metric_of`) of the residual stream behind the block from the dense model's. The
    gradient is only ever taken through a shrunk copy of one layer, so the cost is that of the pruned model.
    """
    blocks = blocks_of(dense)
    family = family_of(dense.config)
    streams = Streams(dense, pruned, samples, moments.weights)
    with progress.track("reconstructing blocks", len(blocks)) as advance:
        for block in streams.blocks():
            if kept := plan.units(block):
                layer, branch = layers_of(pruned)[block.layer], family.branches[block.kind]
                small = copy.deepcopy(layer)
                for own in (other for other in blocks if other.layer == block.layer):
                    shrink_block_(family, small, own, plan.units(own))
                modules = [small.get_submodule(path) for path in (*branch.producers, branch.consumer)]
                metric = metric_of(moments.blocks[block].sensitivity).to(pruned.device)
                fit(cast("list[nn.Linear]", modules), streams, small, block, metric, seed)
                write_back_(family, small, layer, block, kept)
            advance()


def metric_of(sensitivity: np.ndarray) -> "torch.Tensor":
    """R, [d, d], such that the squared length of e R is what an error e of a block's output counts for.

    Where F (`sensitivity`) is the Fisher information of the output, ½ eᵀ F e is what the error costs in the final loss, near
    the dense model. A pruned one is not so near, so R Rᵀ = (1 - EVEN) F / mean(diag F) + EVEN I.
    """
    import torch

    size = len(sensitivity)
    scale = float(np.trace(sensitivity)) / size
    metric = (1 - EVEN) * sensitivity.astype(np.float64) / max(scale, 1e-300) + EVEN * np.eye(size)
    return torch.from_numpy(np.linalg.cholesky(metric)).float()


def fit(
    modules: "list[nn.Linear]", streams: Streams, layer: "nn.Module", block: Block, metric: "torch.Tensor", seed: int
) -> None:
    """Adam on the parameters of `modules`, those of `block` in `layer`.

    What is minimised is the weighted squared distance to the target, in units of what the block has to put out.
    Steps are in units of the weights' own size. Their size and their number shrink with the error that there is to mend: a
    block that is all but right already would otherwise be made worse by the steps' own noise.
    """
    import torch

    def length(batch: int, vectors: torch.Tensor) -> torch.Tensor:
        weight = streams.weights[batch][streams.rows[block]]
        return (weight * (vectors @ metric).square().sum(-1)).sum()

    batches = len(streams.calls)
    with torch.no_grad():
        pairs = ((batch, _missed(streams, layer, block, batch)) for batch in range(batches))
        lengths = [(float(length(batch, missed)), float(length(batch, wanted))) for batch, (missed, wanted) in pairs]
    errors, scales = zip(*lengths, strict=True)
    to_mend = min(1.0, 2 * (sum(errors) / max(sum(scales), 1e-30)) ** 0.5)
    passes = min(EPOCHS, TOKENS / sum(weights.shape[1] for weights in streams.weights))
    rate, epochs = RATE * to_mend, math.ceil(passes * to_mend * min(1.0, NARROW / len(metric)))
    parameters = [parameter.requires_grad_() for module in modules for parameter in module.parameters()]
    optimiser = torch.optim.Adam([
        {"params": list(module.parameters()), "lr": rate * float(module.weight.detach().square().mean().sqrt())}
        for module in modules
    ])
    steps = epochs * -(-batches // STEP_BATCHES)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(batches, generator=generator).tolist()
        for start in range(0, batches, STEP_BATCHES):
            optimiser.zero_grad()
            taken = order[start : start + STEP_BATCHES]
            scale = max(sum(scales[batch] for batch in taken), 1e-30)
            for batch in taken:  # one after the other, so that one batch's activations are all that is kept
                (length(batch, _missed(streams, layer, block, batch)[0]) / scale).backward()
            optimiser.step()
            schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


def _missed(
    streams: Streams, layer: "nn.Module", block: Block, batch: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """For the valid tokens of a batch, [tokens, d]: (what `block` should put out less what it does, what it should)."""
    seen = streams.through(layer, block, batch)
    valid = streams.valid[batch]
    wanted = (streams.targets[block.kind][batch] - seen["entry"].detach())[valid]
    return wanted - seen["output"][valid], wanted
