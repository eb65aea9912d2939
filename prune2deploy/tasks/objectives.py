"""How far a model's outputs are from labels and from other outputs: statistics, judging and training share these.

To add an objective, write a subclass of `Objective` that fills in its `_` methods for rows [m, ...], a row a prediction.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]  # by the name of the output

IGNORED = -100  # the label of what does not count, as in transformers
NEVER = -1e30  # a logit without any probability: of two that are -∞, the difference would be no number
SMALLEST = 1e-12  # length of a vector that is divided by


@dataclass(frozen=True)
class Output:
    """One output of a model over many samples, without what does not count.

    `values`: [m, ...], a row a prediction; `counted`: bool [m, positions] where a prediction is a choice among positions.
    """

    values: np.ndarray
    counted: np.ndarray | None = None

    def times(self, factor: float) -> "Output":
        """The same, multiplied by `factor`."""
        return replace(self, values=factor * self.values)


Outputs = dict[str, Output]  # by name


def difference_of(outputs: Outputs, wanted: Outputs) -> float:
    """The largest difference between two models' outputs; NaN where one is none."""
    return float(np.max([np.abs(outputs[name].values - each.values).max() for name, each in wanted.items()]))


def largest_of(outputs: Outputs) -> float:
    """The largest number in the outputs, whatever its sign."""
    return float(np.max([np.abs(each.values).max() for each in outputs.values()]))


@dataclass(frozen=True)
class Objective(ABC):
    """The distribution that one output predicts: its loss, its Fisher information, its divergence from another.

    An output is [n, ...], one prediction a sample, or, `per_position`, [n, positions, ...], one a position. `counted`,
    bool [n, positions], says which positions count (padding and labels of `IGNORED` do not); None: all. What lies at the
    others is never read. Predictions are taken for independent, so that losses and Fisher information add: what is given
    as [n] is the sum over a sample's counted positions. `divergence` is the mean over all predictions.

    Random numbers are drawn where `outputs` lie, which is where `generator` must be.
    """

    per_position: bool = False
    scalable: ClassVar[bool]  # whether a factor on the outputs only makes them more or less sure, as a temperature does
    learning_rate: ClassVar[float] = 2e-4  # of Adam on `distillation_losses`, in a model of hidden size 384

    def losses(
        self, outputs: "torch.Tensor", labels: "torch.Tensor", counted: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Negative log-likelihood of each sample's labels, [n], nats, up to a constant; differentiable."""
        rows = self._losses(self._rows(outputs, counted), self._chosen(labels, counted))
        return self._by_sample(rows, outputs, counted)

    def sampled_labels(
        self, outputs: "torch.Tensor", generator: "torch.Generator", counted: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Labels drawn from the predicted distribution, `IGNORED` where nothing counts."""
        return self._placed(self._drawn(self._rows(outputs, counted), generator), outputs, counted, IGNORED)

    def fisher_probe(
        self, outputs: "torch.Tensor", generator: "torch.Generator", counted: "torch.Tensor | None" = None,
        temperature: float = 1.0,
    ) -> "torch.Tensor":
        """Random v, shaped like `outputs`, with E[v vᵀ] the Fisher information of the distribution, softened.

        That is the Hessian of the sum of `distillation_losses` where outputs and reference are equal. The gradient of
        ⟨v, outputs⟩ then has the model's Fisher information as covariance, whatever the labels are.
        """
        softened = self._softened(self._rows(outputs, counted), temperature)
        return self._placed(self._probe(softened, generator), outputs, counted, 0)

    def distillation_losses(
        self, outputs: "torch.Tensor", reference: "torch.Tensor", temperature: float,
        counted: "torch.Tensor | None" = None,
    ) -> "torch.Tensor":
        """T² · D(reference / T ‖ outputs / T) of each sample, [n], differentiable (Hinton et al. 2015).

        Objectives that are not `scalable` know no temperature: theirs is D(reference ‖ outputs) at every T.
        """
        got, wanted = (self._softened(self._rows(each, counted), temperature) for each in (outputs, reference))
        factor = temperature**2 if self.scalable else 1.0
        return self._by_sample(factor * self._divergences(got, wanted), outputs, counted)

    def divergences(
        self, outputs: np.ndarray, reference: np.ndarray, counted: np.ndarray | None = None
    ) -> np.ndarray:
        """D(reference ‖ outputs) of each sample, [n], in float64; `reference` are the dense model's outputs."""
        import torch

        mask = None if counted is None else torch.from_numpy(counted)
        got, wanted = (torch.from_numpy(each.astype(np.float64)) for each in (outputs, reference))
        rows = self._exact_divergences(self._rows(got, mask), self._rows(wanted, mask))
        return self._by_sample(rows, got, mask).numpy()

    def divergence(self, outputs: np.ndarray, reference: np.ndarray, counted: np.ndarray | None = None) -> float:
        """Mean of D(reference ‖ outputs) over all predictions that count: 0 where they are equal."""
        total = self.divergences(outputs, reference, counted).sum()
        return float(total / max(1, self.count(outputs, counted)))

    def by_sample(self, outputs: np.ndarray, counted: np.ndarray | None) -> list[np.ndarray]:
        """Of each sample in a batch what counts: [...], or, per position, [positions that count, ...]."""
        if not self.per_position or counted is None:
            return list(outputs)
        return [values[mask] for values, mask in zip(outputs, counted, strict=True)]

    def gathered(self, samples: list[np.ndarray]) -> Output:
        """What `by_sample` left of many samples."""
        return Output(np.concatenate(samples) if self.per_position else np.stack(samples))

    def count(self, outputs: np.ndarray, counted: np.ndarray | None = None) -> int:
        """How many predictions in `outputs` count."""
        if not self.per_position:
            return len(outputs)
        return outputs.shape[0] * outputs.shape[1] if counted is None else int(counted.sum())

    @abstractmethod
    def _losses(self, rows: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """Of each row, [m]."""

    @abstractmethod
    def _drawn(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """A label for each row, [m, ...]."""

    @abstractmethod
    def _probe(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """Shaped like `rows`."""

    @abstractmethod
    def _divergences(self, got: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
        """D(wanted ‖ got) of each row, [m]; differentiable."""

    def _exact_divergences(self, got: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
        """As `_divergences`, for judging: rows are float64, and no gradient is asked for."""
        return self._divergences(got, wanted)

    def _rows(self, outputs: "torch.Tensor", counted: "torch.Tensor | None") -> "torch.Tensor":
        """[m, ...], a row a prediction that counts."""
        return self._chosen(outputs, counted)

    def _chosen(self, values: "torch.Tensor", counted: "torch.Tensor | None") -> "torch.Tensor":
        return values[_mask(values, counted)] if self.per_position else values

    def _placed(
        self, rows: "torch.Tensor", outputs: "torch.Tensor", counted: "torch.Tensor | None", fill: float
    ) -> "torch.Tensor":
        """The rows [m, ...] back where they were in `outputs`, and `fill` where nothing counts."""
        if not self.per_position:
            return rows
        mask = _mask(outputs, counted)
        whole = rows.new_full((*mask.shape, *rows.shape[1:]), fill)
        whole[mask] = rows
        return whole

    def _by_sample(
        self, rows: "torch.Tensor", outputs: "torch.Tensor", counted: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """[n] of the rows' numbers [m]."""
        return self._placed(rows, outputs, counted, 0).sum(1) if self.per_position else rows

    def _softened(self, rows: "torch.Tensor", temperature: float) -> "torch.Tensor":
        return rows / temperature if self.scalable else rows


@dataclass(frozen=True)
class Categorical(Objective):
    """One of several classes; outputs are logits, classes on the last axis. Labels are indices; D is in nats."""

    scalable = True

    def _losses(self, rows: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """Cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(rows, labels, reduction="none")

    def _drawn(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """From the softmax: the loss gradient then has the Fisher information as covariance."""
        import torch

        return torch.multinomial(rows.softmax(-1), 1, generator=generator).squeeze(-1)

    def _probe(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """V = (diag √p − p √pᵀ) r with random signs r, so that E[v vᵀ] = diag p − p pᵀ.

        Labels drawn from p would do as well on average, but where the model is sure of itself nearly all of them say
        nothing and a few say too much.
        """
        p = rows.softmax(-1)
        root = p.sqrt() * _signs(p, generator)
        return root - p * root.sum(-1, keepdim=True)

    def _divergences(self, got: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
        """KL(softmax(wanted) ‖ softmax(got))."""
        wanted, got = (values.log_softmax(-1) for values in (wanted, got))
        return (wanted.exp() * (wanted - got)).sum(-1)

    def _exact_divergences(self, got: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
        """By scipy, on whose last bits the weights of every classifier pruned so far depend."""
        import torch
        from scipy.special import log_softmax

        p, q = log_softmax(wanted.numpy(), -1), log_softmax(got.numpy(), -1)
        return torch.from_numpy((np.exp(p) * (p - q)).sum(-1))


@dataclass(frozen=True)
class Pointer(Categorical):
    """One of a sample's counted positions, by logits [n, positions]; at least one counts, and labels point at such."""

    per_position: bool = field(default=False, init=False)  # one prediction a sample

    def by_sample(self, outputs: np.ndarray, counted: np.ndarray | None) -> list[np.ndarray]:
        """See Objective: [positions that count]."""
        return list(outputs) if counted is None else [row[mask] for row, mask in zip(outputs, counted, strict=True)]

    def gathered(self, samples: list[np.ndarray]) -> Output:
        """See Objective; shorter samples are filled up with positions that do not count."""
        longest = max(map(len, samples))
        counted = np.arange(longest) < np.asarray([len(row) for row in samples])[:, None]
        values = np.zeros(counted.shape, dtype=samples[0].dtype)
        values[counted] = np.concatenate(samples)
        return Output(values, counted)

    def _rows(self, outputs: "torch.Tensor", counted: "torch.Tensor | None") -> "torch.Tensor":
        return outputs if counted is None else outputs.masked_fill(~counted, NEVER)


@dataclass(frozen=True)
class Bernoulli(Objective):
    """Yes or no to each entry of an output of logits, as in multi-label classification. Labels are 0 or 1; D in nats."""

    scalable = True

    def _losses(self, rows: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """Cross-entropy, summed over entries."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return _total(binary_cross_entropy_with_logits(rows, _like(rows, labels), reduction="none"))

    def _drawn(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        import torch

        return torch.bernoulli(rows.sigmoid(), generator=generator)

    def _probe(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """V = √(p (1 − p)) r with random signs r: varies less than y − p with y drawn from p, as in `Categorical`."""
        return (rows.sigmoid() * (-rows).sigmoid()).sqrt() * _signs(rows, generator)

    def _divergences(self, got: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
        """KL(σ(wanted) ‖ σ(got)), summed over entries."""
        from torch.nn.functional import logsigmoid

        yes = wanted.sigmoid() * (logsigmoid(wanted) - logsigmoid(got))
        no = (-wanted).sigmoid() * (logsigmoid(-wanted) - logsigmoid(-got))
        return _total(yes + no)


@dataclass(frozen=True)
class Gaussian(Objective):
    """Numbers, each with the standard deviation `scale`, in the labels' unit: regression. D is in nats."""

    scale: float = 1.0
    scalable = False

    def _losses(self, rows: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """½ (z − y)² / scale², summed over entries."""
        return self._divergences(rows, _like(rows, labels))

    def _drawn(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        import torch

        noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype, device=rows.device)
        return rows + self.scale * noise

    def _probe(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """Random signs over `scale`: E[v vᵀ] = I / scale², as with normal noise, but every sample counts alike each time."""
        return _signs(rows, generator) / self.scale

    def _divergences(self, got: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
        """KL of two normal distributions of one variance."""
        return _total(((got - wanted) / self.scale).square()) / 2


@dataclass(frozen=True)
class Cosine(Objective):
    """A direction, on the last axis: embeddings. Labels are vectors; D is 1 − cos, in no unit.

    1 − cos(z, y) is the negative log-likelihood, up to a constant, of y under the von Mises-Fisher distribution around z
    of concentration 1 (Mardia and Jupp 2000, section 9.3). "Fisher information" is the Hessian of D, (I − u uᵀ) / ‖z‖² with
    u = z / ‖z‖; that of the distribution is the same but for a factor.
    """

    scalable = False
    learning_rate = 6e-4

    def _losses(self, rows: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        return self._divergences(rows, labels)

    def _drawn(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """By rejection: a direction y, uniform on the sphere, is taken with probability exp(cos(z, y) − 1)."""
        import torch

        unit = _unit(rows)
        labels, left = torch.empty_like(unit), torch.ones(unit.shape[:-1], dtype=torch.bool, device=unit.device)
        while left.any():
            noise = torch.randn(unit[left].shape, generator=generator, dtype=unit.dtype, device=unit.device)
            labels[left] = _unit(noise)
            chance = ((labels * unit).sum(-1)[left] - 1).exp()
            luck = torch.rand(chance.shape, generator=generator, dtype=unit.dtype, device=unit.device)
            left[left.clone()] = luck >= chance  # never where a row is no number, so that this ends
        return labels

    def _probe(self, rows: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
        """V = (I − u uᵀ) r / ‖z‖ with random signs r."""
        unit, signs = _unit(rows), _signs(rows, generator)
        return (signs - unit * (unit * signs).sum(-1, keepdim=True)) / _length(rows)

    def _divergences(self, got: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
        """As ½ ‖u − u'‖², which is 0, not just near, where vectors are equal."""
        return _total((_unit(got) - _unit(wanted)).square()) / 2


@dataclass(frozen=True)
class Joint:
    """A model's outputs by name, each with its objective. They are taken for independent, so that what they say adds up.

    `counted` is one for all outputs, see Objective.
    """

    parts: Mapping[str, Objective]

    @property
    def scalable(self) -> bool:
        """Whether one factor may scale all outputs."""
        return all(part.scalable for part in self.parts.values())

    @property
    def learning_rate(self) -> float:
        """See Objective: that of the slowest part."""
        return min(part.learning_rate for part in self.parts.values())

    def losses(self, outputs: "Tensors", labels: "Tensors", counted: "torch.Tensor | None" = None) -> "torch.Tensor":
        """See Objective; `labels` by the name of the output."""
        import torch

        return torch.stack([
            part.losses(outputs[name], labels[name], counted) for name, part in self.parts.items()
        ]).sum(0)  # fmt: skip

    def sampled_labels(
        self, outputs: "Tensors", generator: "torch.Generator", counted: "torch.Tensor | None" = None
    ) -> "Tensors":
        """See Objective."""
        return {name: part.sampled_labels(outputs[name], generator, counted) for name, part in self.parts.items()}

    def fisher_probe(
        self, outputs: "Tensors", generator: "torch.Generator", counted: "torch.Tensor | None" = None,
        temperature: float = 1.0,
    ) -> "Tensors":
        """See Objective; the probes of two outputs are independent."""
        return {
            name: part.fisher_probe(outputs[name], generator, counted, temperature) for name, part in self.parts.items()
        }

    def distillation_losses(
        self, outputs: "Tensors", reference: "Tensors", temperature: float, counted: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """See Objective."""
        import torch

        return torch.stack([
            part.distillation_losses(outputs[name], reference[name], temperature, counted)
            for name, part in self.parts.items()
        ]).sum(0)  # fmt: skip

    def divergence(self, outputs: Outputs, reference: Outputs) -> float:
        """The sum of the outputs' divergences, each the mean over its own predictions."""
        total = 0.0
        for name, part in self.parts.items():
            rows = replace(part, per_position=False) if part.per_position else part  # a row a prediction already
            got, wanted = outputs[name], reference[name]
            total += rows.divergence(got.values, wanted.values, wanted.counted)
        return total


def _mask(values: "torch.Tensor", counted: "torch.Tensor | None") -> "torch.Tensor":
    import torch

    return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if counted is None else counted


def _signs(like: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """1 or -1, each as likely, shaped like `like`."""
    import torch

    return torch.randint(0, 2, like.shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def _total(rows: "torch.Tensor") -> "torch.Tensor":
    """Sum over all axes but the first."""
    return rows.flatten(1).sum(1) if rows.ndim > 1 else rows


def _like(rows: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """`labels` in the type and shape of `rows`: a label a sample comes as [n] for outputs [n, 1]."""
    return labels.to(rows.dtype).reshape(rows.shape)


def _length(rows: "torch.Tensor") -> "torch.Tensor":
    return rows.norm(dim=-1, keepdim=True).clamp_min(SMALLEST)


def _unit(rows: "torch.Tensor") -> "torch.Tensor":
    return rows / _length(rows)
