"""How long samples are in the model's own positions, and how many of them to take."""

from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.models.capture import first_call, positions_of
from prune2deploy.tasks.base import Samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def lengths_of(model: "PreTrainedModel", samples: Samples) -> np.ndarray:
    """Positions of the residual stream that each sample fills, [n]."""
    known = [samples.tokens(index) for index in range(len(samples))]
    if known[0] is None:
        call = first_call(model, samples.batch([0]).tensors(model.device))
        return np.full(len(samples), positions_of(call.hidden))
    return np.asarray(known)


def thinned(model: "PreTrainedModel", samples: Samples, tokens: int) -> list[int]:
    """Indices of `samples`, evenly thinned out where they have more than `tokens` tokens in all."""
    total = int(lengths_of(model, samples).sum())
    count = len(samples) if total <= tokens else max(1, len(samples) * tokens // total)
    return np.unique(np.linspace(0, len(samples) - 1, count).astype(int)).tolist()
