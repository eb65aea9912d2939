"""What every task offers to the stages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prune2deploy.config import DataSettings, WorkloadPoint

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from prune2deploy.tasks.metrics import Metric
    from prune2deploy.tasks.objectives import Joint, Outputs

Arrays = dict[str, np.ndarray]
RawSample = dict[str, bytes]  # by the name of the served input
Labels = np.ndarray | list[np.ndarray]  # of samples, [n]; or of each sample's positions, [positions] each
Run = Callable[[Arrays], Arrays]  # from inputs to outputs, both by name
LOGITS = "logits"
LARGEST_BATCH = 4096  # that an export promises to take
FORWARD_TOKENS = 8192  # in a batch that only goes forward
OUTPUTS = 2**26  # numbers that a batch puts out, or that are kept of several, 256 MB


@dataclass(frozen=True)
class Score:
    """A task metric in points (0 to 100), over `n` samples."""

    metric: str
    value: float
    standard_error: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.standard_error:.2f} {self.metric} (n = {self.n})"


def tensors(inputs: Arrays, device: "torch.device | str" = "cpu") -> "dict[str, torch.Tensor]":
    """`inputs` for PyTorch; on a CPU they share their memory."""
    import torch

    return {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}


@dataclass
class Batch:
    """Samples of one forward pass. `inputs`: arrays [batch, ...]; `valid`: [batch, tokens] or None (all tokens count)."""

    inputs: Arrays
    labels: np.ndarray | None
    valid: np.ndarray | None

    def tensors(self, device: "torch.device | str" = "cpu") -> "dict[str, torch.Tensor]":
        """The inputs for PyTorch."""
        return tensors(self.inputs, device)

    def counts(self) -> "torch.Tensor | None":
        """[batch, tokens], which tokens count; None where all do."""
        import torch

        return None if self.valid is None else torch.from_numpy(self.valid)

    def counted(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """[batch, tokens], whether each token of `hidden`, [batch, tokens, ...], counts; where tokens are others, all do."""
        import torch

        if self.valid is None or self.valid.shape[1] != hidden.shape[1]:
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        return torch.from_numpy(self.valid).to(hidden.device)


class Samples(ABC):
    """Samples of one split, in a fixed order; `labels` is None where the data has none.

    `outputs_each`: how many numbers the model puts out at each position; 0 where outputs of samples are few.
    """

    labels: Labels | None
    outputs_each: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: list[int]) -> Batch:
        """The samples at `indices` as one batch."""

    @abstractmethod
    def select(self, indices: list[int]) -> "Samples":
        """Only the samples at `indices`."""

    @abstractmethod
    def digest(self) -> str:
        """Hash of everything that the samples are made of."""

    def tokens(self, index: int) -> int | None:
        """How many positions of the residual stream sample `index` fills; None where all fill the same number."""
        return None

    @property
    def tokens_at_once(self) -> int:
        """At how many positions the outputs can be kept."""
        return OUTPUTS // max(1, self.outputs_each)

    def order(self) -> list[int]:
        """The order in which `batches` goes through the samples; similar ones together where padding costs."""
        return list(range(len(self)))

    def batches(self, size: int) -> Iterator[tuple[list[int], Batch]]:
        """All samples, at most `size` at a time, each batch with the indices of its samples."""
        lengths = [self.tokens(index) or 1 for index in range(len(self))]
        for indices in grouped(self.order(), lengths, size, min(FORWARD_TOKENS, self.tokens_at_once)):
            yield indices, self.batch(indices)

    def first(self, count: int) -> "Samples":
        """The first `count`, or as many fewer, but one, as have outputs that can be kept."""
        numbers = np.cumsum([(self.tokens(index) or 1) * self.outputs_each for index in range(min(count, len(self)))])
        return self.select(list(range(max(1, int((numbers <= OUTPUTS).sum())))))


def grouped(order: Sequence[int], lengths: Sequence[int], size: int, tokens: int) -> list[list[int]]:
    """`order` in batches of at most `size` samples that, padded, fill at most `tokens` positions; one sample at least."""
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if not batches or len(batches[-1]) == size or longest * (len(batches[-1]) + 1) > tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


class Task(ABC):
    """One kind of task, for one model and one data set: data, an objective and a metric."""

    name: ClassVar[str]
    architecture_suffix: ClassVar[str]  # which transformers classes it is for
    needs: ClassVar[str] = ""  # what else they must have, for messages
    reads_first_token: ClassVar[bool]  # whether the model's head sees nothing but the first position
    columns: ClassVar[tuple[str, ...]]  # the column roles that the project file may name
    served: ClassVar[str]  # the file of prune2deploy.serving.served that preprocesses on a server
    requires: ClassVar[tuple[str, ...]]  # the packages that this file needs
    outputs: ClassVar[tuple[str, ...]]  # of the model, by name, in their order
    objective: "Joint"  # of these outputs
    misfit: ClassVar[str] = "is it another column, another order of labels, another model?"  # where data and model seem so
    least_of_own: ClassVar[float] = 0.5  # of what its own labels would give, that a dense model reaches on the data's

    def __init__(self, model_dir: Path, config: "PretrainedConfig", data: DataSettings, root: Path):
        self.model_dir = model_dir
        self.config = config
        self.data = data
        self.root = root

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """Whether this is a task of models with this configuration."""
        return (config.architectures or ["none"])[0].endswith(cls.architecture_suffix)

    @classmethod
    @abstractmethod
    def guess_columns(cls, features: dict[str, object], given: dict[str, str], where: str) -> dict[str, str]:
        """The column roles of a data set with these features; raises InputError when they cannot be told."""

    @classmethod
    @abstractmethod
    def default_point(cls, config: "PretrainedConfig") -> WorkloadPoint:
        """The workload of a project that names none, for a model with this configuration."""

    @abstractmethod
    def check_point(self, point: WorkloadPoint) -> None:
        """Raise InputError where the model cannot run this shape."""

    @abstractmethod
    def calibration(self, count: int, seed: int) -> Samples:
        """Up to `count` samples of the calibration split, drawn with `seed`."""

    @abstractmethod
    def reserve(self, count: int, seed: int, taken: int) -> Samples | None:
        """Up to `count` samples of the calibration split that `calibration(taken, seed)` leaves; None where it takes all."""

    @abstractmethod
    def evaluation(self) -> Samples:
        """The evaluation split."""

    @abstractmethod
    def synthetic_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """Inputs of this shape made without data, for tracing: where there can be padding, the last row ends in some."""

    @abstractmethod
    def timing_inputs(self, batch: int, seq_len: int | None) -> Arrays:
        """The same for timing: every token counts, as in `workload_inputs`, because padding costs time."""

    @abstractmethod
    def workload_inputs(self, samples: Samples, point: WorkloadPoint) -> Arrays:
        """Real samples in exactly the shape of `point`."""

    @abstractmethod
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Per input name, the axes that stay free in an export and their names, in the order of the model's inputs."""

    @abstractmethod
    def axis_limits(self) -> dict[str, int]:
        """The largest size that the model takes of each axis named by `dynamic_axes`."""

    def counted(self, inputs: Arrays) -> np.ndarray | None:
        """Bool [batch, positions], which positions of a batch count; None where all do."""
        return None

    @abstractmethod
    def metric(self) -> "Metric":
        """The task metric, which has seen nothing yet."""

    @abstractmethod
    def predictions(self, outputs: "Outputs") -> np.ndarray:
        """What the model says of each sample, [n, ...]: stands for labels where the data has none."""

    def targets(self, labels: np.ndarray) -> "dict[str, torch.Tensor]":
        """Labels [n, ...] for the objective, by the name of the output."""
        import torch

        [output] = self.outputs
        return {output: torch.from_numpy(labels)}

    def said(self, model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """The outputs of `model` for `inputs`, by name."""
        returned = model(**inputs)
        return {name: getattr(returned, name) for name in self.outputs}

    @abstractmethod
    def constant(self, labels: Labels) -> Run:
        """The best model that answers everything alike, for samples with these labels."""

    @abstractmethod
    def label_names(self) -> list[str]:
        """The names of the outputs, for the server's label file; empty where outputs have no names."""

    @abstractmethod
    def raw(self, count: int) -> dict[str, list[bytes]]:
        """The first `count` evaluation samples as a client sends them, by the name of the served input."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Where sample `index` of the evaluation split comes from, for messages: its file and line, or row."""

    @abstractmethod
    def odd(self) -> dict[str, RawSample]:
        """Samples that are rare in data sets and come to servers all the same, by what is odd about each."""

    @abstractmethod
    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """What transformers' own pipeline makes of one raw sample: the logits, [...]; raises whatever the pipeline raises.

        `model`: None: the one in `model_dir`, loaded as anybody would load it.
        """

    @abstractmethod
    def write_preprocessing(self, directory: Path, workload: Sequence[WorkloadPoint]) -> None:
        """Write what the preprocessing on a server reads; raises NotServableError where no server can do it."""
