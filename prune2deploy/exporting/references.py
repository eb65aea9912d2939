"""Real samples that travel with a package: what the model makes of some, and some in the shapes of the workload."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.exporting.manifest import REFERENCE_FILE
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.runtimes.base import Arrays
from prune2deploy.tasks.base import Samples
from prune2deploy.tasks.predict import Run

REFERENCES = 8  # samples, and rows of a workload point


@dataclass(frozen=True)
class References:
    """`outputs`: of the pruned PyTorch model for `inputs`; `workload`: inputs of each point, the first rows of them."""

    inputs: Arrays
    outputs: np.ndarray
    workload: list[Arrays]

    def points(self, workload: list[WorkloadPoint]) -> list[tuple[WorkloadPoint, Arrays]]:
        """The workload in full: its points with inputs of their batch, rows repeated."""
        return [
            (point, {name: np.resize(array, (point.batch, *array.shape[1:])) for name, array in arrays.items()})
            for point, arrays in zip(workload, self.workload, strict=True)
        ]


def write_references(package: Path, samples: Samples, run: Run, workload: list[tuple[WorkloadPoint, Arrays]]) -> None:
    """Write the references of `package`: a few `samples` with what `run` makes of them, and the `workload`."""
    inputs = samples.batch(list(range(min(REFERENCES, len(samples))))).inputs
    arrays = {f"input.{name}": array for name, array in inputs.items()}
    for index, (_, rows) in enumerate(workload):
        arrays |= {f"workload.{index}.{name}": array[:REFERENCES] for name, array in rows.items()}
    arrays["output"] = run(inputs)
    write_arrays(package / REFERENCE_FILE, arrays)


def read_references(package: Path, points: int) -> References:
    """What `write_references` wrote for a workload of so many points; raises InputError where it is damaged."""
    arrays = read_arrays(package / REFERENCE_FILE)
    groups = {prefix: _group(arrays, prefix) for prefix in ("input.", *(f"workload.{i}." for i in range(points)))}
    missing = [f"{prefix}*" for prefix, group in groups.items() if not group]
    if "output" not in arrays or missing:
        raise InputError(f"{package / REFERENCE_FILE}: damaged: it holds no {', '.join(missing) or 'output'}")
    return References(groups.pop("input."), arrays["output"], list(groups.values()))


def _group(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
