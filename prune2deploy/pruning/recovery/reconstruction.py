"""Block reconstruction: what the re-fit does for a block's output projection, for all of the block's weights.

What feeds the output projection goes through a softmax or an activation, so there is no closed form; a fixed, small
number of gradient steps on the re-fit's own objective takes its place. Every block is on its own: nothing is propagated
through the model, and there is neither a label nor a task loss (as in post-training quantization: BRECQ, Li et al. 2021).
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block
from prune2deploy.models.family import layer_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import modules_of
from prune2deploy.models.surgery import shrunk_layer, write_back_
from prune2deploy.pruning.statistics.streams import Streams

if TYPE_CHECKING:
    import torch
    from torch import nn

EPOCHS = 6  # passes over the samples at an error of a quarter or more; fewer where there is less to mend
TOKENS = 260_000  # in all passes, so that longer samples do not take longer: six times those of 2,048 sentences
NARROW = 384  # hidden size up to which there are so many passes; wider blocks get fewer, and cost no more than one so wide
EVEN = 0.8  # how much of the metric counts all directions of the output alike; the rest goes by their Fisher information
RATE = 0.03  # a step's size relative to the weights' root mean square at an error of a quarter or more; falls to 0


def reconstruct(streams: Streams, block: Block, plan: Plan, sensitivity: np.ndarray, seed: int) -> None:
    """Fit, in place in the pruned model, all weights of `block`, which the walk has come to.

    Minimises the weighted distance (see `metric_of`) of the residual stream behind the block from the dense model's. The
    gradient is only ever taken through a shrunk copy of one layer, so the cost is that of the pruned model.

    Args:
        streams: of the dense model and of one to which `plan` is applied, masked.
        block: see above; it keeps one unit at least.
        plan: see above.
        sensitivity: [d, d], the Fisher information of the block's output.
        seed: of the order in which samples are visited.
    """
    layer = layer_of(streams.pruned, block)
    own = [other for other in streams.blocks_in_order if other.root == block.root]
    small = shrunk_layer(layer, {other: plan.units(other) for other in own})
    metric = metric_of(sensitivity).to(streams.pruned.device)
    fit(modules_of(small, block), streams, small, block, metric, seed)
    write_back_(small, layer, block, plan.units(block))


def metric_of(sensitivity: np.ndarray) -> "torch.Tensor":
    """M, [d, d], such that eᵀ M e is what an error e of a block's output counts for.

    Where F (`sensitivity`) is the Fisher information of the output, ½ eᵀ F e is what the error costs in the final loss, near
    the dense model. A pruned one is not so near, so M = (1 - EVEN) F / mean(diag F) + EVEN I.
    """
    import torch

    size = len(sensitivity)
    scale = float(np.trace(sensitivity)) / size
    return torch.from_numpy((1 - EVEN) * sensitivity / max(scale, 1e-300) + EVEN * np.eye(size)).float()


def fit(
    modules: "list[nn.Linear | nn.Conv2d]", streams: Streams, layer: "nn.Module", block: Block, metric: "torch.Tensor",
    seed: int,
) -> None:
    """Adam on the parameters of `modules`, those of `block` in `layer`, a step on each batch.

    What is minimised is Σ weight · (target − output)ᵀ M (target − output), in units of what the block has to put out.
    Steps are in units of the weights' own size. Their size and their number shrink with the error that there is to mend: a
    block that is all but right already would otherwise be made worse by the steps' own noise.
    """
    import torch

    batches = len(streams.places)
    weights = [_padded(streams, block, batch) for batch in range(batches)]

    def pull(batch: int, vectors: torch.Tensor) -> torch.Tensor:
        """Half the gradient of the squared length of `vectors`."""
        return weights[batch][..., None] * (vectors @ metric)

    errors: list[float] = []
    scales: list[float] = []
    for batch in range(batches):
        with torch.no_grad():
            output, wanted = _put_out(streams, layer, block, batch)
            for lengths, vectors in ((errors, wanted - output), (scales, wanted)):
                lengths.append(float((vectors * pull(batch, vectors)).sum()))
    to_mend = min(1.0, 2 * (sum(errors) / max(sum(scales), 1e-30)) ** 0.5)
    passes = min(EPOCHS, TOKENS / streams.tokens(block))
    rate, epochs = RATE * to_mend, math.ceil(passes * to_mend * min(1.0, NARROW / len(metric)))
    parameters = [parameter.requires_grad_() for module in modules for parameter in module.parameters()]
    groups = [
        {"params": list(module.parameters()), "lr": rate * float(module.weight.detach().square().mean().sqrt())}
        for module in modules
    ]
    optimiser = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=epochs * batches)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(batches, generator=generator).tolist():
            optimiser.zero_grad()
            output, wanted = _put_out(streams, layer, block, batch)
            output.backward(pull(batch, output.detach() - wanted) * (2 / max(scales[batch], 1e-30)))
            optimiser.step()
            schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False)


def _padded(streams: Streams, block: Block, batch: int) -> "torch.Tensor":
    """What each token of a batch counts for, [samples, tokens]: padding nothing."""
    import torch

    counts, valid = streams.weight(block, batch), streams.counted(block, batch)
    return torch.zeros(valid.shape, dtype=counts.dtype, device=valid.device).masked_scatter(valid, counts)


def _put_out(
    streams: Streams, layer: "nn.Module", block: Block, batch: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Of a batch, [samples, tokens, d]: (what `block` puts out, what it should)."""
    seen = streams.through(layer, block, batch)
    target = streams.targets[block][batch]
    return seen["output"], target - seen["entry"].detach() if "entry" in seen else target
