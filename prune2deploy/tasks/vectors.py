"""Tasks whose output is a vector to search and compare by: what an encoder without a head is used for."""

from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.tasks.base import Arrays, Labels, Run, Samples, Serving
from prune2deploy.tasks.metrics import CosineToDense, Metric
from prune2deploy.tasks.objectives import Outputs
from prune2deploy.tasks.rows import FromRows

if TYPE_CHECKING:
    import torch


class Vectors(FromRows):
    """Sample to one vector, [n, size], the first of `outputs`. Labels, if any, say which samples are alike."""

    least_of_own = 0.0  # which samples are alike is no matter of a vector by itself

    @property
    def vector(self) -> str:
        """The name of the output."""
        return self.outputs[0]

    @property
    def serving(self) -> Serving:  # type: ignore[override]
        """See Task."""
        return Serving(outputs={self.vector: "EMBEDDING"})

    def metric(self, samples: Samples) -> Metric:
        """See Task; without labels, and where the project names no metric, the cosine to the dense model's vector."""
        if samples.labels is None and self.scoring.metric is None:
            return CosineToDense(self.vector)
        return super().metric(samples)

    def targets(self, labels: np.ndarray) -> "dict[str, torch.Tensor] | None":
        """See Task: which samples are alike does not say what their vectors should be."""
        return None

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """The vector of each sample."""
        return outputs[self.vector].values

    def constant(self, labels: Labels) -> Run:
        """See Task: one vector for all."""

        def run(inputs: Arrays) -> Arrays:
            return {self.vector: np.ones((len(next(iter(inputs.values()))), 2), dtype=np.float32)}

        return run
