"""Knowledge scores: what a unit knows of the prediction and of the representation (Park et al. 2024, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.block import Block
from prune2deploy.models.capture import in_model, passing, resumed
from prune2deploy.models.projection import output_projection
from prune2deploy.tasks.base import Batch, Task

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

PREDICTIVE = 1.0  # λ_pred
REPRESENTATIONAL = 2.5e-4  # λ_rep, of the run that the authors' README gives
HEADS = 64.0  # μ
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Watched:
    """One batch: its inputs, and the dense model's outputs for it."""

    batch: Batch
    reference: "dict[str, torch.Tensor]"


def knowledge(
    task: Task, model: "PreTrainedModel", watched: Sequence[Watched], hidden: "Sequence[torch.Tensor]",
    blocks: list[Block],
) -> dict[Block, np.ndarray]:
    """λ_pred ½ (∂KL_T/∂m)² + λ_rep ‖x‖² ‖W‖² of every unit of `blocks`, [units] each; of heads, μ times that.

    KL_T: the divergence of the model's softened predictions from the dense model's, averaged over a batch; its squared
    gradients to the masks are summed over batches. ‖x‖²: what a column feeds into the output projection, mean over
    tokens; ‖W‖²: mean over the outputs. A head's score is the mean over its columns.

    Args:
        task: what the batches are of.
        model: pruned below `blocks`.
        watched: batch by batch.
        hidden: per batch, what the first layer of `blocks` is given.
        blocks: from one on, all that are above it.
    """
    import torch

    sizes = {block: block.units * block.unit_size for block in blocks}
    predictive, squares = ({block: np.zeros(size) for block, size in sizes.items()} for _ in range(2))
    samples, tokens = 0, 0
    for entry, given in zip(watched, hidden, strict=True):
        masks = {block: torch.ones(size, requires_grad=True) for block, size in sizes.items()}
        inputs: dict[Block, torch.Tensor] = {}
        masked = partial(_masked, masks, inputs)
        with resumed(model, blocks[0], given), passing(in_model(model), blocks, given=masked):
            said = task.said(model, entry.batch.tensors())
        loss = task.objective.distillation_losses(said, entry.reference, TEMPERATURE, entry.batch.counts()).mean()
        valid = entry.batch.counted(given)
        for block, gradient in zip(blocks, torch.autograd.grad(loss, list(masks.values())), strict=True):
            predictive[block] += 0.5 * gradient.double().square().numpy()
            squares[block] += inputs[block][valid].double().square().sum(0).numpy()
        samples, tokens = samples + len(given), tokens + int(valid.sum())
    scores = {}
    for block in blocks:
        weight = output_projection(model, block).weight.double().square().mean(0).numpy()
        columns = PREDICTIVE * predictive[block] / samples + REPRESENTATIONAL * squares[block] / tokens * weight
        units = columns.reshape(block.units, block.unit_size).mean(1)
        scores[block] = HEADS * units if block.kind == "attention" else units
    return scores


def _masked(
    masks: "dict[Block, torch.Tensor]", inputs: "dict[Block, torch.Tensor]", block: Block, module: "nn.Module",
    hidden: "torch.Tensor",
) -> "torch.Tensor":
    """`hidden` times the mask of `block`, [columns]; what it was is kept in `inputs`."""
    inputs[block] = hidden.detach()
    return hidden * masks[block]
