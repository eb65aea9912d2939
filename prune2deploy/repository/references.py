"""Real samples that travel with a package: what the model makes of some, and some in the shapes of the workload.

Outputs at every position are as large as the vocabulary times the tokens. No more of them is kept than fits into `BYTES`:
of each sample some positions that count, evenly spread, and the last among them, where all of the text has its say; and
fewer samples, where one position of each is too much already.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune2deploy.config import WorkloadPoint
from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.repository.manifest import REFERENCE_FILE
from prune2deploy.runtimes.base import Arrays
from prune2deploy.tasks.base import Run, Samples, Task

UNNAMED = "logits"  # what the one output was that older packages have
REFERENCES = 8  # samples, and rows of a workload point
BYTES = 8 * 2**20  # of all outputs at positions
NUMBER = 4  # bytes


@dataclass(frozen=True)
class References:
    """`outputs`: of the pruned PyTorch model for `inputs`, which were made of `raw`, by the name of the served input.

    `workload`: inputs of each point of the workload, the first rows of them, and `workload_outputs` what becomes of them.
    `positions`, `workload_positions`: int [rows, kept], of outputs at positions, those that are kept, by name.
    """

    inputs: Arrays
    outputs: Arrays
    raw: dict[str, list[bytes]]
    workload: list[Arrays]
    workload_outputs: list[Arrays]
    positions: Arrays
    workload_positions: list[Arrays]

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
    room = BYTES // NUMBER // (1 + len(workload))
    most = min(REFERENCES, max(1, room // max(1, samples.outputs_each)))
    count = len(samples.first(most))
    inputs = samples.batch(list(range(count))).inputs
    arrays = {f"input.{name}": array for name, array in inputs.items()}
    arrays |= _kept(task, inputs, run(inputs), room, "")
    for name, column in task.raw(count).items():
        arrays |= {f"raw.{name}.{row}": np.frombuffer(value, dtype=np.uint8) for row, value in enumerate(column)}
    for index, (_, rows) in enumerate(workload):
        first = {name: array[:most] for name, array in rows.items()}
        arrays |= {f"workload.{index}.{name}": array for name, array in first.items()}
        of_point = _kept(task, first, run(first), room, f".{index}")
        arrays |= {f"workload_{name}": array for name, array in of_point.items()}
    write_arrays(version / REFERENCE_FILE, arrays)


def chosen(said: Arrays, positions: Arrays) -> Arrays:
    """Of outputs, by name, what references have of them."""
    return {
        name: np.stack([row[places] for row, places in zip(output, positions[name], strict=True)])
        if name in positions else output
        for name, output in said.items()
    }  # fmt: skip


def _kept(task: Task, inputs: Arrays, said: Arrays, room: int, of: str) -> Arrays:
    """What is stored of what the model `said` to `inputs`: up to `room` numbers at positions, and which ones these are."""
    names = [name for name, part in task.objective.parts.items() if part.per_position]
    positions: Arrays = {}
    if names:
        counted = task.counted(inputs)
        places = np.ones(said[names[0]].shape[:2], dtype=bool) if counted is None else counted
        fitting = max(1, room // sum(said[name][:, 0].size for name in names))
        count = min(fitting, int(places.sum(1).max()))
        positions = dict.fromkeys(names, np.stack([_spread(np.flatnonzero(row), count) for row in places]))
    return {
        **{f"output{of}.{name}": array for name, array in chosen(said, positions).items()},
        **{f"positions{of}.{name}": array for name, array in positions.items()},
    }


def _spread(places: np.ndarray, count: int) -> np.ndarray:
    """`count` of `places`, evenly spread up to the last, some more than once where there are fewer."""
    return places[np.linspace(len(places) - 1, 0, count).round().astype(np.int64)][::-1]


def read_references(version: Path, points: int) -> References:
    """What `write_references` wrote for a workload of so many points; raises InputError where it is damaged."""
    arrays = read_arrays(version / REFERENCE_FILE)
    inputs, raw = _group(arrays, "input."), _group(arrays, "raw.")
    workload = [_group(arrays, f"workload.{index}.") for index in range(points)]
    outputs, of_workload = _named(arrays, "output"), [_named(arrays, f"workload_output.{index}") for index in range(points)]
    places = [_group(arrays, f"workload_positions.{index}.") for index in range(points)]
    needed = {"input": inputs, "raw": raw, "workload": all(workload) and all(of_workload), "output": outputs}
    if missing := [name for name, found in needed.items() if not found]:
        raise InputError(f"{version / REFERENCE_FILE}: damaged: it holds no {', '.join(missing)}")
    columns: dict[str, list[bytes]] = {}
    for key, value in sorted(raw.items(), key=lambda item: int(item[0].rsplit(".", 1)[1])):
        columns.setdefault(key.rsplit(".", 1)[0], []).append(value.tobytes())
    return References(inputs, outputs, columns, workload, of_workload, _group(arrays, "positions."), places)


def _named(arrays: Arrays, key: str) -> Arrays:
    """Outputs by name; packages of before have one, and no name for it."""
    return {UNNAMED: arrays[key]} if key in arrays else _group(arrays, f"{key}.")


def _group(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
