"""How well regions of images are found: the mean over classes of intersection over union."""

import numpy as np

from prune2deploy.tasks.base import Arrays
from prune2deploy.tasks.metrics import Metric
from prune2deploy.tasks.objectives import IGNORED
from prune2deploy.tasks.paired import WHOLE


class MeanIou(Metric):
    """The mean over classes of the places that are right, over those that are or are taken to be; times 100, of all images.

    `output`: logits [n, places, classes] of a coarse grid, which are made as large as the maps by bilinear interpolation,
    as everywhere; labels [n, height, width], or, what a model says itself, [n, places]. Classes that are nowhere, and that
    nobody takes anything for, say nothing.
    """

    name = "mean IoU"

    def __init__(self, output: str, classes: int, size: tuple[int, ...]):
        super().__init__()
        self.output, self.classes, self.size = output, classes, size

    def value(self, numbers: np.ndarray) -> float:
        """See Metric."""
        hits, given, there = numbers.reshape(len(numbers), 3, -1).sum(0)
        union = given + there - hits
        known = union > 0
        return float(WHOLE * (hits[known] / union[known]).mean()) if known.any() else 0.0

    def _of_samples(self, outputs: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """(right, given, there) of each class, one after the other."""
        said = outputs[self.output]
        classes = said.argmax(-1) if labels.ndim == 2 else self._enlarged(said).argmax(1)
        found = []
        for mine, right in zip(classes, labels, strict=True):
            places = right != IGNORED
            mine, right = mine[places], right[places]
            counts = [np.bincount(each, minlength=self.classes) for each in (mine[mine == right], mine, right)]
            found.append(np.concatenate(counts))
        return np.asarray(found, dtype=np.float64)

    def _enlarged(self, said: np.ndarray) -> np.ndarray:
        """[n, classes, height, width]."""
        import torch

        height, width = self.size
        rows = round((said.shape[1] * height / width) ** 0.5)
        grid = torch.from_numpy(np.ascontiguousarray(said)).transpose(1, 2).reshape(len(said), self.classes, rows, -1)
        return torch.nn.functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False).numpy()
