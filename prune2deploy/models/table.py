"""The latency table: its file format, its look-ups and the checks it must pass."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from prune2deploy.config import Target, WorkloadPoint
from prune2deploy.errors import ContradictionError, InputError
from prune2deploy.files import Record, read_record
from prune2deploy.models.block import Block
from prune2deploy.models.signature import Signature
from prune2deploy.runtimes.base import DeviceInfo, RuntimeInfo
from prune2deploy.runtimes.nvml import GpuState

CHEAP_PADDING = 0.02  # of the latency; less is within what two measurements differ by
LAUNCH_BOUND = 1.1  # what half of every block makes faster, at most, where launches take the time (docs/gpu.md)
ERROR_LIMIT = 0.05  # median prediction error on unseen plans that a table may have


class Curve(Record):
    """Milliseconds that one run of a block adds at each measured width; width 0 adds nothing.

    `tokens`: the share of the tokens that goes through it.
    """

    precision: str = "fp32"
    tokens: float = Field(1.0, gt=0, le=1)
    widths: list[int] = Field(min_length=2)
    ms: list[float] = Field(min_length=2)
    standard_error_ms: list[float] = Field(min_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> "Curve":
        if not len(self.widths) == len(self.ms) == len(self.standard_error_ms):
            raise ValueError("widths, ms and standard_error_ms differ in length")
        if self.widths[0] != 0 or any(low >= high for low, high in zip(self.widths, self.widths[1:], strict=False)):
            raise ValueError("widths must ascend from 0")
        if self.ms[0] != 0 or min(self.ms) < 0 or min(self.standard_error_ms) < 0:
            raise ValueError("ms must start at 0 and never be negative")
        return self

    def at(self, width: int) -> float:
        """Milliseconds at `width`, interpolated between measured widths."""
        return float(np.interp(width, self.widths, self.ms))


class PointTable(Record):
    """The curves of one workload point, those of one name for each choice of precision and share of tokens.

    `change_ms`: what a change of precision between neighbours costs, by both ("fp32>int8").
    """

    point: WorkloadPoint
    fixed_ms: float = Field(gt=0, description="everything that cannot be pruned, fitted on whole models")
    fixed_alone_ms: float = Field(gt=0, description="the model with every block removed, measured alone")
    dense_ms: float = Field(gt=0, description="the dense model, measured")
    block_scale: float = Field(gt=0, description="what the stacks' block times were multiplied by to fit whole models")
    curves: dict[str, list[Curve]]
    change_ms: dict[str, float] = Field(default_factory=dict)
    padding_cost: float | None = Field(
        None, description="share by which one padded token in every row slows the dense model; None where nobody measured it"
    )

    @field_validator("curves", mode="before")
    @classmethod
    def _of_version_1(cls, curves: Any) -> Any:
        if not isinstance(curves, dict):
            return curves
        return {name: found if isinstance(found, list) else [found] for name, found in curves.items()}

    @model_validator(mode="after")
    def _complete(self) -> "PointTable":
        for name, curves in self.curves.items():
            choices = [(curve.precision, curve.tokens) for curve in curves]
            if not choices or len(set(choices)) < len(choices):
                raise ValueError(f"one curve of {name} for each precision and share of tokens")
        return self

    def curve(self, name: str, precision: str | None = None) -> Curve:
        """The curve of that name for all tokens, in `precision` or else in the engine's own; raises KeyError."""
        if precision is None:
            return self.curves[name][0]
        found = next((curve for curve in self.curves[name] if curve.precision == precision), None)
        if found is None:
            raise KeyError(f"{name} was not measured in {precision}")
        return found


class PlanCheck(Record):
    """Prediction against measurement for a plan that the table was not fitted on."""

    point: str
    widths: dict[str, list[int]]
    precisions: dict[str, list[str]] = Field(default_factory=dict, description="of the same blocks, where they differ")
    predicted_ms: float
    measured_ms: float
    error: float


class LatencyTable(Record):
    """`profiles/<device>/<model signature>.<runtime>.<precision>.json`."""

    schema_version: int = Field(2, ge=1, le=2)
    signature: Signature
    device: DeviceInfo
    runtime: RuntimeInfo
    precision: str
    points: list[PointTable] = Field(min_length=1)
    checks: list[PlanCheck]
    median_error: float = Field(ge=0, description="median of |error| over the checks")
    reference_spread: float = Field(description="interquartile range of the dense model's rounds over their median")
    measured_at: str
    seconds: float
    load_average: float
    versions: dict[str, str]
    gpu: list[GpuState] = Field(default_factory=list, description="from before to after measuring; empty for a CPU")

    @field_validator("schema_version")
    @classmethod
    def _newest(cls, version: int) -> int:
        return 2  # what version 1 had is read as it is

    @model_validator(mode="after")
    def _reaches_full_width(self) -> "LatencyTable":
        for point in self.points:
            if set(point.curves) != set(self.signature.curves):
                raise ValueError("one curve for each of: " + ", ".join(self.signature.curves))
            for name, shape in self.signature.curves.items():
                if any(curve.widths[-1] != shape.units for curve in point.curves[name]):
                    raise ValueError(f"{point.point}: the {name} curve does not end at the dense width {shape.units}")
        return self

    def widths(self, curve: str, precision: str | None = None) -> list[int]:
        """The widths that were measured for blocks of this curve (the same at every workload point)."""
        return self.points[0].curve(curve, precision).widths

    def lower_precisions(self, curve: str) -> list[str]:
        """What blocks of this curve were measured in beside the engine's own precision."""
        return [each.precision for each in self.points[0].curves[curve][1:]]

    def run_ms(self, curve: str, width: int, precision: str | None = None) -> float:
        """Milliseconds that one run of a block adds, averaged over the workload."""
        return self._averaged([point.curve(curve, precision).at(width) for point in self.points])

    def block_ms(self, block: Block, width: int, precision: str | None = None) -> float:
        """Milliseconds that `block` adds in a forward pass, averaged over the workload."""
        return block.calls * self.run_ms(block.curve, width, precision)

    def change_ms(self, before: str | None, after: str | None) -> float:
        """Milliseconds that a change from one precision to another between neighbours costs, averaged likewise."""
        if before == after:
            return 0.0
        name = f"{before or self.own}>{after or self.own}"
        return self._averaged([point.change_ms.get(name, 0.0) for point in self.points])

    @property
    def own(self) -> str:
        """What the engine computes in, but for blocks in less."""
        return next(iter(self.points[0].curves.values()))[0].precision

    @property
    def fixed_ms(self) -> float:
        """Milliseconds of everything that cannot be pruned, averaged over the workload."""
        return self._averaged([point.fixed_ms for point in self.points])

    @property
    def dense_ms(self) -> float:
        """Measured milliseconds of the dense model, averaged over the workload."""
        return self._averaged([point.dense_ms for point in self.points])

    def predict_ms(self, widths: Mapping[str, int], precisions: Mapping[str, str] | None = None) -> float:
        """Milliseconds of the model with these widths of its blocks, by key, averaged over the workload.

        `precisions`: of the blocks that are not in the engine's own.
        """
        lower = precisions or {}
        blocks = sum(
            self.signature.calls.get(key, 1) * self.run_ms(self.signature.blocks[key], width, lower.get(key))
            for key, width in widths.items()
        )
        there = [lower.get(key) for key, width in widths.items() if width]
        return self.fixed_ms + blocks + sum(itertools.starmap(self.change_ms, itertools.pairwise(there)))

    @property
    def halved_speedup(self) -> float:
        """How many times as fast as the dense model one with half of every block is, by the table."""
        halved, dense = (
            self.predict_ms({key: self.signature.units(key) // share for key in self.signature.blocks}) for share in (2, 1)
        )
        return dense / halved

    def _averaged(self, values: list[float]) -> float:
        return float(np.average(values, weights=[point.point.weight for point in self.points]))


def launch_note(table: LatencyTable) -> str | None:
    """What to tell where ONNX Runtime's launching of kernels, one by one, takes a GPU's time; None where it does not."""
    one_by_one = table.device.kind == "gpu" and table.runtime.name == "onnxruntime" and not replays(table.runtime)
    if not one_by_one or table.halved_speedup > LAUNCH_BOUND:
        return None
    return (
        "narrower blocks save next to nothing here: launching kernels takes the time; with cuda_graphs = true under "
        "[target] they are replayed, and larger batches have more to save"
    )


def replays(runtime: RuntimeInfo) -> bool:
    """Whether ONNX Runtime replays CUDA graphs."""
    return "enable_cuda_graph" in runtime.settings


def padding_note(points: list[PointTable]) -> str | None:
    """What to tell of padding where it costs time; None where it costs next to nothing, or nobody measured it."""
    cost, point = max(((each.padding_cost or 0.0, each.point) for each in points), key=lambda pair: pair[0])
    if cost <= CHEAP_PADDING:
        return None
    return f"one padded token in every row makes {point} {100 * cost:.0f} % slower; budgets are for rows without any"


def table_path(profiles: Path, device: DeviceInfo, signature: Signature, runtime: RuntimeInfo, precision: str) -> Path:
    """Where the table for this combination is kept."""
    how = "" if device.kind == "gpu" else f"-{runtime.threads}t"
    if replays(runtime):
        how = "-cuda-graphs"
    return profiles / device.slug / f"{signature.name}.{runtime.name}{how}.{precision}.json"


def read_table(path: Path) -> LatencyTable:
    """Read a table; raises InputError when it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path}: no latency table here: measure one with `prune2deploy profile`")
    return read_record(path, LatencyTable, "latency table", "measure one with `prune2deploy profile`")


def check_matches(
    table: LatencyTable, where: Path, signature: Signature, workload: list[WorkloadPoint], target: Target,
    device: DeviceInfo | None, runtime: RuntimeInfo | None,
) -> LatencyTable:
    """`table` with the project's workload weights; raises InputError where it was made for something else.

    `device` and `runtime` are None where the table comes from another machine, as when one prunes away from the target.
    """
    wrong = None
    if table.signature != signature:
        wrong = f"model {table.signature.name}, and this one is {signature.name}"
    elif table.runtime.name != target.runtime or table.precision != target.precision:
        wrong = f"{table.runtime.name} in {table.precision}, and the target is {target.runtime} in {target.precision}"
    elif table.device.kind != target.device:
        wrong = f"a {table.device.kind}, and the target is a {target.device}"
    elif device is not None and (differs := table.device.differs(device)):
        wrong = differs
    elif target.threads is not None and table.runtime.threads != target.threads:
        wrong = f"{table.runtime.threads} threads, and the target has {target.threads}"
    elif runtime is not None and table.runtime.threads != runtime.threads:
        wrong = f"{table.runtime.threads} threads, and this run has {runtime.threads}"
    elif runtime is not None and (table.runtime.version, table.runtime.provider) != (runtime.version, runtime.provider):
        wrong = (f"{table.runtime.provider} {table.runtime.version}, "
                 f"and here is {runtime.provider} {runtime.version}")  # fmt: skip
    elif runtime is not None and (differing := _differing(table.runtime.settings, runtime.settings)):
        wrong = f"{differing[0]}, and this run has {differing[1]}"
    if wrong:
        raise InputError(f"{where}: this latency table was made for {wrong}: measure one with `prune2deploy profile`")
    points = []
    for wanted in workload:
        found = next((entry for entry in table.points if entry.point.same_shape(wanted)), None)
        if found is None:
            known = ", ".join(str(entry.point) for entry in table.points)
            raise InputError(f"{where}: has no {wanted} (it has: {known}): measure it with `prune2deploy profile`")
        points.append(found.model_copy(update={"point": wanted}))
    return table.model_copy(update={"points": points})


def _differing(table: dict[str, str], run: dict[str, str]) -> tuple[str, str] | None:
    """The settings that are not the same in both, as each has them."""
    names = sorted(name for name in table.keys() | run.keys() if table.get(name) != run.get(name))
    if not names:
        return None
    first, second = (", ".join(f"{name} = {settings.get(name, 'not set')}" for name in names) for settings in (table, run))
    return first, second


def refuse_noisy(table: LatencyTable) -> None:
    """Raise ContradictionError where the table contradicts itself or does not predict whole models."""
    for point in table.points:
        for name, curves in point.curves.items():
            for curve in curves:
                _refuse_falling(curve, name, point.point)
    if table.median_error > ERROR_LIMIT:
        raise ContradictionError(
            f"the table does not predict whole models: over {len(table.checks)} random plans the median error is "
            f"{100 * table.median_error:.1f} % (limit {100 * ERROR_LIMIT:.0f} %); run this again when the machine is quiet"
        )


def _refuse_falling(curve: Curve, name: str, point: WorkloadPoint) -> None:
    """Raise ContradictionError where a wider block took clearly less time than a narrower one."""
    for index in range(1, len(curve.widths)):
        drop = curve.ms[index - 1] - curve.ms[index]
        noise = 4 * float(np.hypot(curve.standard_error_ms[index - 1], curve.standard_error_ms[index]))
        if drop > max(noise, 0.15 * curve.ms[index - 1]):
            raise ContradictionError(
                f"the table contradicts itself ({point}): {name} at width {curve.widths[index - 1]} took "
                f"{curve.ms[index - 1]:.3g} ms and the wider {curve.widths[index]} only {curve.ms[index]:.3g} ms; "
                "run this again when the machine is quiet"
            )
