"""`prune2deploy.toml`: the model, the data, the workload and the target, said once."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from prune2deploy.errors import InputError
from prune2deploy.files import Record, first_problem, seen_from, write_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT_FILE = "prune2deploy.toml"
LONGEST_WAIT = 10_080.0  # minutes: a week
Precision = Literal["fp32", "fp16", "bf16"]  # what an engine computes in, but for blocks that are chosen to be in less
TargetPrecision = Literal[
    "auto", "fp32", "fp16", "bf16", "int8-dynamic", "int8", "int8-weights", "int4-weights", "pwlq4-weights"
]
RuntimeName = Literal["onnxruntime", "openvino", "tensorrt"]
BackendName = Literal["onnxruntime", "openvino", "tensorrt", "python"]
SERVED_BY: dict[RuntimeName, tuple[BackendName, ...]] = {  # which backends run what is measured in a runtime
    "onnxruntime": ("onnxruntime", "python"), "openvino": ("openvino", "python"), "tensorrt": ("tensorrt",),
}  # fmt: skip
# what engines of a runtime on a device compute in, and what single blocks of theirs can be in instead
OWN_PRECISIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("onnxruntime", "cpu"): ("fp32",), ("onnxruntime", "gpu"): ("fp32", "fp16"), ("openvino", "cpu"): ("fp32", "bf16"),
    ("tensorrt", "gpu"): ("fp32", "fp16", "bf16"),
}  # fmt: skip
BLOCK_PRECISIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("onnxruntime", "cpu"): ("int8-dynamic", "int8", "int8-weights", "int4-weights"), ("openvino", "cpu"): ("int8",),
}
# those that only make the file smaller: nothing is faster, so that a search for latency never takes them
STORED_PRECISIONS: dict[tuple[str, str], tuple[str, ...]] = {("onnxruntime", "cpu"): ("pwlq4-weights",)}


class WorkloadPoint(Record):
    """One input shape that the deployed model will see, and how much it counts."""

    batch: int = Field(1, ge=1, le=4096)
    seq_len: int | None = Field(None, ge=1, le=131_072, description="None where the input fixes it (images)")
    weight: float = Field(1.0, gt=0)

    def __str__(self) -> str:
        return f"batch {self.batch}" + (f" × {self.seq_len}" if self.seq_len else "")

    def same_shape(self, other: "WorkloadPoint") -> bool:
        """Whether both have the same batch and sequence length, whatever their weights."""
        return (self.batch, self.seq_len) == (other.batch, other.seq_len)


class DataSettings(Record):
    """Where the samples are and what their columns are called."""

    path: str
    calibration: str = "train"
    evaluation: str = "validation"
    columns: dict[str, str] = Field(default_factory=dict)
    max_length: int | None = Field(None, ge=2, le=131_072)


class ScoringSettings(Record):
    """What the task metric is, where the task has several."""

    metric: str | None = Field(None, description="None: the task's first")
    threshold: float | None = Field(None, gt=0, lt=1, description="the probability that gives a label of several; None: 0.5")


class CalibrationSettings(Record):
    """How many samples the pruning statistics are taken from."""

    samples: int = Field(2048, ge=8)
    seed: int = Field(0, ge=0)
    effort: int = Field(0, ge=0, le=100_000, description="profiles of widths to try beyond the knapsack's own")
    device: Literal["cpu", "gpu"] = Field("cpu", description="where pruning computes, whatever the target is")


class RecoverySettings(Record):
    """What is done, beside what always is, so that a pruned model answers as the dense one."""

    train: Literal["distil"] | None = Field(None, description="None: nothing is trained")
    steps: int = Field(800, ge=1, le=1_000_000, description="of training, with 16 samples each")


class TensorRtSettings(Record):
    """How TensorRT builds engines."""

    optimization_level: int = Field(3, ge=0, le=5, description="higher: longer builds, faster engines")
    workspace_gb: float | None = Field(None, gt=0, description="None: all of the device's memory")
    version_compatible: bool = Field(False, description="engines run on later versions of TensorRT, too")
    hardware_compatible: bool = Field(False, description="engines run on other GPUs from Ampere on, too")
    strip_weights: bool = Field(False, description="cached plans hold no weights; they are put in for a package")


class Target(Record):
    """What the model is pruned for."""

    device: Literal["cpu", "gpu"] = "cpu"
    runtime: RuntimeName = "onnxruntime"
    precision: TargetPrecision = Field("fp32", description="auto: of each block, what the search chooses")
    threads: int | None = Field(None, ge=1, le=1024, description="None: one a physical core that we may use")
    cuda_graphs: bool = Field(False, description="ONNX Runtime replays what it captured once for each shape")
    tensorrt: TensorRtSettings = Field(default_factory=TensorRtSettings)
    triton: str | None = Field(None, description="the release of the server, such as 26.07")

    @property
    def own_precision(self) -> Precision:
        """What the engine computes in, but for blocks that are chosen to be in less."""
        if self.precision in ("fp32", "fp16", "bf16"):
            return self.precision
        return "fp32"

    @property
    def block_precisions(self) -> tuple[str, ...]:
        """What blocks may be in beside the engine's own precision: all there are, or the one that is asked for."""
        if self.precision == "auto":
            return BLOCK_PRECISIONS[self.runtime, self.device]
        return () if self.precision == self.own_precision else (self.precision,)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What `precision` may be, for this runtime on this device."""
        blocks = BLOCK_PRECISIONS.get((self.runtime, self.device), ())
        own = OWN_PRECISIONS[self.runtime, self.device]
        stored = STORED_PRECISIONS.get((self.runtime, self.device), ())
        return ("auto", *own, *blocks, *stored) if blocks else own

    @model_validator(mode="after")
    def _possible(self) -> "Target":
        if self.runtime == "tensorrt" and self.device != "gpu":
            raise ValueError('runtime = "tensorrt" needs device = "gpu"')
        if self.runtime == "openvino" and self.device != "cpu":
            raise ValueError('runtime = "openvino" needs device = "cpu"')
        if self.precision not in (known := self.precisions):
            raise ValueError(
                f'precision = "{self.precision}" is not to be had in {self.runtime} on a {self.device}: choose '
                f"{', '.join(known[:-1])} or {known[-1]}"
            )
        if self.cuda_graphs and (self.runtime, self.device) != ("onnxruntime", "gpu"):
            raise ValueError('cuda_graphs is for device = "gpu" with runtime = "onnxruntime" (TensorRT needs no telling)')
        return self


class ServingSettings(Record):
    """How a Triton server runs what is exported."""

    backend: BackendName | None = Field(None, description="None: the one of the runtime that it is measured in")
    with_tokenizer: bool = Field(False, description="text or image in, label out: entries for the steps around the model")
    response_cache: bool = Field(False, description="answer a repeated request from the server's cache, where it has one")
    instances: int = Field(1, ge=1, le=64, description="of the model, on each device")
    # A lone request waits this long for company, on top of the budgeted latency. Without a delay the batcher joins only
    # what has piled up behind a running batch; half a millisecond joins a burst and stays small against budgets of several.
    queue_delay_us: int = Field(500, ge=0, le=10_000_000)
    keep: int = Field(2, ge=0, le=1000, description="versions that stay in the repository behind the one that is served")


class MeasuringSettings(Record):
    """What is done on a machine that something disturbs."""

    wait_minutes: float = Field(0.0, ge=0, le=LONGEST_WAIT, description="that a disturbed measurement waits for quiet")


class Project(Record):
    """Everything the stages need to know; paths are relative to `root`."""

    model: str
    task: str
    data: DataSettings
    scoring: ScoringSettings = Field(default_factory=ScoringSettings)
    workload: list[WorkloadPoint] = Field(default_factory=lambda: [WorkloadPoint()], min_length=1)
    target: Target = Field(default_factory=Target)
    calibration: CalibrationSettings = Field(default_factory=CalibrationSettings)
    recovery: RecoverySettings = Field(default_factory=RecoverySettings)
    serving: ServingSettings = Field(default_factory=ServingSettings)
    measuring: MeasuringSettings = Field(default_factory=MeasuringSettings)
    root: Path = Field(default_factory=Path.cwd, exclude=True)

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        if not model.strip():
            raise ValueError("empty; give a model directory or a hub id")
        return model

    @model_validator(mode="after")
    def _distinct_points(self) -> "Project":
        for index, point in enumerate(self.workload):
            if any(point.same_shape(other) for other in self.workload[:index]):
                raise ValueError(f"workload: {point} is given twice; give it once, with the sum of the weights")
        return self

    @model_validator(mode="after")
    def _servable(self) -> "Project":
        runs = SERVED_BY[self.target.runtime]
        if self.serving.backend not in (None, *runs):
            raise ValueError(
                f'serving.backend = "{self.serving.backend}" does not run what is measured in {self.target.runtime}; '
                f"choose {' or '.join(runs)}"
            )
        return self

    @property
    def backend(self) -> BackendName:
        """The Triton backend that will run the model."""
        return self.serving.backend or self.target.runtime

    def resolve(self, path: str | Path) -> Path:
        """`path` as seen from the project file."""
        return seen_from(self.root, path)

    @property
    def profiles(self) -> Path:
        """Where this project's latency tables are kept."""
        return self.root / "profiles"

    @property
    def state(self) -> Path:
        """Where interrupted work is kept, so that it can go on."""
        return self.root / ".prune2deploy"


def project_among(values: Iterable[object]) -> Project | None:
    """The project among what a command is given; None where it has none."""
    return next((value for value in values if isinstance(value, Project)), None)


def load_project(path: Path | None = None) -> Project:
    """Read the project file (default: `prune2deploy.toml` here); raises InputError when it cannot be used."""
    path = path or Path(PROJECT_FILE)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"no {path} here: write one with `prune2deploy init MODEL --data DATA`"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return project_from(values, path.absolute().parent, str(path))


def project_from(values: dict, root: Path, where: str) -> Project:
    """Validate `values`; raises InputError naming `where`."""
    try:
        return Project.model_validate({**values, "root": root})
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}") from None


def refuse_existing_project(path: Path) -> None:
    """Raise InputError where there is a project file at `path`."""
    if path.exists():
        raise InputError(f"{path} already exists: edit it, or remove it to start again")


def save_project(project: Project, path: Path) -> None:
    """Write `project` as TOML; raises InputError where the file exists."""
    refuse_existing_project(path)
    values = project.model_dump(mode="json", exclude_none=True)
    if project.target.runtime != "tensorrt":
        del values["target"]["tensorrt"]
    header = "# What prune2deploy works on. Options on the command line win over what is written here.\n\n"
    write_text(path, header + tomli_w.dumps(values))
