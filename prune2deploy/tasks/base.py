"""What every task offers to the stages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prune2deploy.config import DataSettings, ScoringSettings, WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.models.family import class_of

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
ANSWERING_FILE = "answering.json"  # what the answering on a server must know
LABELS_FILE = "labels.txt"  # the names of outputs, one a line
Metrics = Mapping[str, Callable[[Any, "Samples"], "Metric"]]  # of a task and samples of it
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
        """[rows, tokens], whether each token of `hidden`, [rows, tokens, ...], counts; where tokens are others, all do.

        The rows are those of the batch, or, where a sample is several texts, all of these one after the other.
        """
        import torch

        if self.valid is None or self.valid.size != hidden.shape[0] * hidden.shape[1]:
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        return torch.from_numpy(self.valid).to(hidden.device).reshape(hidden.shape[:2])


class Samples(ABC):
    """Samples of one split, in a fixed order; `labels` is None where the data has none.

    `outputs_each`: how many numbers the model puts out at each position; 0 where outputs of samples are few.
    `together`: so many that follow each other, from the first on, belong together, and are drawn together.
    """

    labels: Labels | None
    outputs_each: int = 0
    together: int = 1

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def label_axes(self) -> int:
        """How many axes the labels have, of samples and of each one's; 0 where there are none."""
        return 0 if self.labels is None else self.labels.ndim if isinstance(self.labels, np.ndarray) else 2

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

    def drawn(self, seed: int) -> list[int]:
        """All samples in an order by chance, but for those that belong together."""
        groups = np.random.default_rng(seed).permutation(len(self) // self.together)
        return [int(group) * self.together + each for group in groups for each in range(self.together)]

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


@dataclass(frozen=True)
class Serving:
    """What a server answers to raw samples.

    `outputs`: what it calls the model's outputs, by their names; `answer`: the file of prune2deploy.serving.served that
    makes something else of them, if any, and `gives`: what that is, by name, (type, shape of one); `passed`: what the
    preprocessing gives the answering beside the model's inputs, likewise. `chain`: the file of a model that does all of
    it and asks the model itself, where one raw sample is several of the model's, and `takes`: what it is sent, likewise.
    """

    outputs: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None
    gives: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    passed: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    chain: str | None = None
    takes: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)


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
    metrics: "ClassVar[Metrics]"  # that the project may choose from, by name
    serving: ClassVar[Serving | None] = None  # what a server answers to raw samples; None: it cannot
    has_threshold: ClassVar[bool] = False  # whether a probability decides what is answered
    sentence_transformer: ClassVar[bool] = False  # whether sentence-transformers has a class that loads such models
    misfit: ClassVar[str] = "is it another column, another order of labels, another model?"  # where data and model seem so
    least_of_own: ClassVar[float] = 0.5  # of what its own labels would give, that a dense model reaches on the data's

    def __init__(
        self, model_dir: Path, config: "PretrainedConfig", data: DataSettings, root: Path,
        scoring: ScoringSettings | None = None,
    ):
        self.model_dir = model_dir
        self.config = config
        self.data = data
        self.root = root
        self.scoring = scoring or ScoringSettings()
        if self.scoring.threshold is not None and not self.has_threshold:
            raise InputError(f"{self.name} has no threshold: leave it out (--threshold, scoring.threshold)")
        if self.scoring.metric not in (None, *self.metrics):
            raise InputError(f"{self.name} has no metric {self.scoring.metric!r}; it has: {', '.join(self.metrics)}")

    @classmethod
    def is_for(cls, config: "PretrainedConfig") -> bool:
        """Whether this is a task of models with this configuration."""
        return class_of(config).endswith(cls.architecture_suffix)

    @property
    def has_pairs(self) -> bool:
        """Whether a sample is two texts."""
        return False

    @classmethod
    def is_column(cls, name: str, features: dict[str, object]) -> bool:
        """Whether `name`, for a role, is a column of a data set with these features."""
        return name in features

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
    def reserve(self, count: int, seed: int, taken: int, passed: int = 0) -> Samples | None:
        """Up to `count` samples of the calibration split that `calibration(taken, seed)` leaves; None where there are none.

        `passed`: so many of those are left out, which are the ones that are taken where it is 0.
        """

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

    def model_inputs(self, arrays: Arrays) -> Arrays:
        """Those of `arrays`, what the preprocessing on a server gives, that the model takes."""
        return {name: arrays[name] for name in self.dynamic_axes()}

    def counted(self, inputs: Arrays) -> np.ndarray | None:
        """Bool [batch, positions], which positions of a batch count; None where all do."""
        return None

    def metric(self, samples: Samples) -> "Metric":
        """The task metric, which has seen none of `samples` yet; against the dense model where they have no labels."""
        return self.metrics[self.scoring.metric or self.usual_metric(samples)](self, samples)

    def least(self, samples: Samples) -> float:
        """The share of what its own labels would give that a dense model reaches on `samples`; 0: of this task, none."""
        return self.least_of_own

    def usual_metric(self, samples: Samples) -> str:
        """The name of the metric where the project does not say."""
        return next(iter(self.metrics))

    @abstractmethod
    def predictions(self, outputs: "Outputs") -> np.ndarray:
        """What the model says of each sample, [n, ...]: stands for labels where the data has none."""

    def targets(self, labels: np.ndarray) -> "dict[str, torch.Tensor] | None":
        """Labels [n, ...] for the objective, by the name of the output; None where they do not say what it should be."""
        import torch

        [output] = self.outputs
        return {output: torch.from_numpy(labels)}

    def give_tokens(self) -> None:  # noqa: B027 (most have nothing else to give)
        """From now on, graphs give the states of all tokens, too, where others pool them."""

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """What an exported graph gives, by name: the outputs, and what else `said` has."""
        return self.outputs

    def said(self, model: "PreTrainedModel", inputs: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """The outputs of `model` for `inputs`, by name."""
        returned = model(**inputs)
        return {name: getattr(returned, name) for name in self.outputs}

    @abstractmethod
    def constant(self, labels: Labels) -> Run:
        """The best model that answers everything alike, for samples with these labels."""

    def label_names(self) -> list[str]:
        """The names of the outputs, for the server's label file; empty where outputs have no names."""
        return []

    def classes(self) -> list[str]:
        """The names of the classes that answers fall into, one by one; empty where they are none."""
        return []

    def answered(self, said: Arrays, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
        """Of a batch, [3, classes]: right answers, answers, and how often each class is right; of tasks with `classes`."""
        raise NotImplementedError

    @abstractmethod
    def raw(self, count: int) -> dict[str, list[bytes]]:
        """The first `count` of what clients send, of the evaluation split, by the name of the served input."""

    def samples_of_raw(self, samples: Samples, count: int) -> list[list[int]]:
        """Which of `samples`, the evaluation split, the first `count` of `raw` become: each the one of its number."""
        return [[index] for index in range(min(count, len(samples)))]

    @abstractmethod
    def place(self, index: int) -> str:
        """Where number `index` of `raw` comes from, for messages: its file and line, or row."""

    @abstractmethod
    def odd(self) -> dict[str, RawSample]:
        """Samples that are rare in data sets and come to servers all the same, by what is odd about each."""

    @abstractmethod
    def outside(self, model: "PreTrainedModel | None" = None) -> Callable[[RawSample], np.ndarray]:
        """What transformers' own pipeline makes of one raw sample: the outputs, one after the other, [...].

        Raises whatever the pipeline raises.

        `model`: None: the one in `model_dir`, loaded as anybody would load it.
        """

    def write_answering(self, directory: Path) -> None:  # noqa: B027 (most have nothing to write)
        """Write what the answering on a server reads."""

    @abstractmethod
    def write_preprocessing(self, directory: Path, workload: Sequence[WorkloadPoint]) -> None:
        """Write what the preprocessing on a server reads; raises NotServableError where no server can do it."""
