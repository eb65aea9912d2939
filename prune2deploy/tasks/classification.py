"""What text and image classification share: labels, loss, metric."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.tasks.base import Samples, Score, Task
from prune2deploy.tasks.data import class_indices, column, read_split

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

LABEL_NAMES = ("label", "labels")
NO_LABEL = ""  # in the project file: this data has no labels


class Classification(Task):
    """One label a sample; logits [n, classes]."""

    reads_first_token = True
    make_samples: "Callable[[Dataset, np.ndarray | None], Samples]"

    def calibration(self, count: int, seed: int) -> Samples:
        """See Task."""
        rows = read_split(self.data, self.data.calibration, self.root)
        if len(rows) > count:
            rows = rows.select(sorted(self._drawn(rows, count, seed)))
        return self.make_samples(rows, self._labels(rows, required=False))

    def reserve(self, count: int, seed: int, taken: int) -> Samples | None:
        """See Task."""
        rows = read_split(self.data, self.data.calibration, self.root)
        if len(rows) <= taken:
            return None
        left = np.setdiff1d(np.arange(len(rows)), self._drawn(rows, taken, seed))
        rows = rows.select(sorted(np.random.default_rng(seed).permutation(left)[:count].tolist()))
        return self.make_samples(rows, self._labels(rows, required=False))

    def evaluation(self) -> Samples:
        """See Task."""
        rows = read_split(self.data, self.data.evaluation, self.root)
        return self.make_samples(rows, self._labels(rows, required=True))

    def _drawn(self, rows: "Dataset", count: int, seed: int) -> list[int]:
        """`count` different rows, each as likely as its size says: statistics are sums over tokens."""
        sizes = self.sizes(rows)
        shares = None if sizes is None else sizes / sizes.sum()
        return np.random.default_rng(seed).choice(len(rows), size=count, replace=False, p=shares).tolist()

    def sizes(self, rows: "Dataset") -> np.ndarray | None:
        """How much each of `rows` has to say, [n], above 0; None where they are all alike."""
        return None

    def _labels(self, rows: "Dataset", required: bool) -> np.ndarray | None:
        """Class indices, [n]; None where the project says that there are none, and, unless `required`, where none are."""
        name = self.data.columns.get("label")
        if not name or (name not in rows.column_names and not required):
            return None
        values = list(rows[column(rows, "label", self.data.columns, self.data.path)])
        missing = values.count(None)
        if missing == len(values) and not required:
            return None
        if missing:
            raise InputError(
                f"data {self.data.path!r}: {missing} of {len(values)} samples have no {name!r}: leave them out, or do "
                "without labels (`init --unlabelled`)"
            )
        indices = class_indices(
            values, rows.features[name], self.config.label2id, self.config.num_labels, self.data.path
        )
        return np.asarray(indices, dtype=np.int64)

    def losses(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """Cross-entropy of each sample."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, reduction="none")

    def sampled_labels(self, logits: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """One class a sample, drawn from the softmax: the loss gradient then has the Fisher information as covariance."""
        import torch

        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)

    def fisher_probe(self, logits: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """V = (diag √p − p √pᵀ) r with random signs r, so that E[v vᵀ] = diag p − p pᵀ.

        Labels drawn from p would do as well on average, but where the model is sure of itself nearly all of them say
        nothing and a few say too much.
        """
        import torch

        p = logits.softmax(-1)
        signs = torch.randint(0, 2, p.shape, generator=generator).to(p.dtype) * 2 - 1
        root = p.sqrt() * signs
        return root - p * root.sum(-1, keepdim=True)

    def distillation_losses(
        self, logits: "torch.Tensor", reference: "torch.Tensor", temperature: float
    ) -> "torch.Tensor":
        """T² · KL(softmax(reference / T) ‖ softmax(logits / T)), nats (Hinton et al. 2015)."""
        wanted, got = ((values / temperature).log_softmax(-1) for values in (reference, logits))
        return temperature**2 * (wanted.exp() * (wanted - got)).sum(-1)

    def score(self, outputs: np.ndarray, labels: np.ndarray) -> Score:
        """Accuracy, with the standard error of a proportion."""
        from sklearn.metrics import accuracy_score

        n = len(labels)
        accuracy = float(accuracy_score(labels, self.predictions(outputs)))
        error = float(np.sqrt(accuracy * (1 - accuracy) / n))
        return Score("accuracy", 100 * accuracy, 100 * error, n)

    def divergence(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        """Mean Kullback-Leibler divergence of the predicted distributions from the reference's, nats."""
        from scipy.special import log_softmax

        wanted, got = log_softmax(reference.astype(np.float64), -1), log_softmax(outputs.astype(np.float64), -1)
        return float((np.exp(wanted) * (wanted - got)).sum(-1).mean())

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """The likeliest class of each sample."""
        return outputs.argmax(-1)

    def label_names(self) -> list[str]:
        """See Task."""
        return [str(self.config.id2label[index]).replace("\n", " ") for index in range(self.config.num_labels)]


def guess_label(features: dict[str, object], given: dict[str, str], where: str) -> str:
    """The label column; `NO_LABEL` only where the user said so."""
    if "label" in given:
        return given["label"]
    for name in LABEL_NAMES:
        if name in features:
            return name
    raise InputError(
        f"data {where!r} has no label column among: {', '.join(features)}; name it with --label, or say --unlabelled "
        "to calibrate on the model's own soft labels"
    )
