"""How far what is left of a model is from the dense one, behind its last layer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prune2deploy.models.capture import first_of
from prune2deploy.models.family import blocks_of, layer_of
from prune2deploy.models.projection import as_rows
from prune2deploy.tasks.base import Samples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BATCH = 32


class Reconstruction:
    """How far the pruned model's last layer is from the dense model's, on a fixed set of samples."""

    def __init__(self, dense: "PreTrainedModel", samples: Samples):
        import torch

        self.samples = samples
        self.dense = list(self._last_layer(dense))
        tokens = torch.cat(self.dense)
        mean = tokens.mean(0, dtype=torch.float64)
        varies = sum(float((rows - mean).square().sum()) for rows in self.dense)
        self.variance = varies or 1.0  # where all tokens are alike, the error is no share of anything

    def error(self, pruned: "PreTrainedModel") -> float:
        """Squared error of the last layer's output relative to the variance of the dense model's."""
        pairs = zip(self._last_layer(pruned), self.dense, strict=True)
        return sum(float((got - wanted).double().square().sum()) for got, wanted in pairs) / self.variance

    def _last_layer(self, model: "PreTrainedModel") -> "Iterator[torch.Tensor]":
        """What the last layer puts out for the valid tokens of each batch, [tokens, d]."""
        import torch

        found: list[torch.Tensor] = []
        last = layer_of(model, blocks_of(model)[-1])
        handle = last.register_forward_hook(lambda module, args, output: found.append(first_of(output)))
        try:
            for indices, batch in self.samples.batches(BATCH):
                with torch.no_grad():
                    model(**batch.tensors(model.device))
                hidden = as_rows(found[-1], len(indices))
                found.clear()
                yield hidden[batch.counted(hidden)]
        finally:
            handle.remove()
