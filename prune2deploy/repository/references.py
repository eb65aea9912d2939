"""Real samples that travel with a package: what the model makes of some, and some in the shapes of the workload."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.repository.manifest import REFERENCE_FILE
from prune2deploy.runtimes.base import Arrays
from prune2deploy.tasks.base import Samples, Task
from prune2deploy.tasks.predict import Run

UNNAMED = "logits"  # what the one output was that older packages have
REFERENCES = 8  # samples, and rows of a workload point


@dataclass(frozen=True)
class References:
    """`outputs`: of the pruned PyTorch model for `inputs`, which were made of `raw`, by the name of the served input.

    `workload`: inputs of each point of the workload, the first rows of them, and `workload_outputs` what becomes of them.
    """

    inputs: Arrays
    outputs: Arrays
    raw: dict[str, list[bytes]]
    workload: list[Arrays]
    workload_outputs: list[Arrays]

    def points(self, workload: list[WorkloadPoint]) -> list[tuple[WorkloadPoint, Arrays]]:
        """The workload with as many rows as each point asks for, repeated where there are fewer."""
        return [
            (point, {name: np.resize(array, (point.batch, *array.shape[1:])) for name, array in arrays.items()})
            for point, arrays in zip(workload, self.workload, strict=True)
        ]


def write_references(
    version: Path, task: Task, samples: Samples, run: Run, workload: list[tuple[WorkloadPoint, Arrays]]
) -> None:
    """Write the references of a version: a few evaluation `samples` with what `run` makes of them, and the `workload`."""
    count = min(REFERENCES, len(samples))
    inputs = samples.batch(list(range(count))).inputs
    arrays = {f"input.{name}": array for name, array in inputs.items()}
    arrays |= {f"output.{name}": array for name, array in run(inputs).items()}
    for name, column in task.raw(count).items():
        arrays |= {f"raw.{name}.{row}": np.frombuffer(value, dtype=np.uint8) for row, value in enumerate(column)}
    for index, (_, rows) in enumerate(workload):
        first = {name: array[:REFERENCES] for name, array in rows.items()}
        arrays |= {f"workload.{index}.{name}": array for name, array in first.items()}
        arrays |= {f"workload_output.{index}.{name}": array for name, array in run(first).items()}
    write_arrays(version / REFERENCE_FILE, arrays)


def read_references(version: Path, points: int) -> References:
    """What `write_references` wrote for a workload of so many points; raises InputError where it is damaged."""
    arrays = read_arrays(version / REFERENCE_FILE)
    inputs, raw = _group(arrays, "input."), _group(arrays, "raw.")
    workload = [_group(arrays, f"workload.{index}.") for index in range(points)]
    outputs, of_workload = _named(arrays, "output"), [_named(arrays, f"workload_output.{index}") for index in range(points)]
    needed = {"input": inputs, "raw": raw, "workload": all(workload) and all(of_workload), "output": outputs}
    if missing := [name for name, found in needed.items() if not found]:
        raise InputError(f"{version / REFERENCE_FILE}: damaged: it holds no {', '.join(missing)}")
    columns: dict[str, list[bytes]] = {}
    for key, value in sorted(raw.items(), key=lambda item: int(item[0].rsplit(".", 1)[1])):
        columns.setdefault(key.rsplit(".", 1)[0], []).append(value.tobytes())
    return References(inputs, outputs, columns, workload, of_workload)


def _named(arrays: Arrays, key: str) -> Arrays:
    """Outputs by name; packages of before have one, and no name for it."""
    return {UNNAMED: arrays[key]} if key in arrays else _group(arrays, f"{key}.")


def _group(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
