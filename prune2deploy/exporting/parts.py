"""The entries around a model: raw text or image to its inputs, its logits to a label, and the ensemble of the three.

They change less often than the model and are shared by all of its versions, so an export leaves them as they are where
they would come out the same.
"""

import datetime
import importlib.metadata
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from prune2deploy.config import Project
from prune2deploy.errors import InputError
from prune2deploy.files import write_text
from prune2deploy.repository.manifest import PartManifest, Role, Sealed, own_files, read_sealed, shared_files, write_sealed
from prune2deploy.repository.triton import TensorSpec, ensemble_config, step_config, write_config
from prune2deploy.repository.versions import LABELS_FILE, located, publish, versions_of
from prune2deploy.runtimes.base import Engine
from prune2deploy.tasks.base import Arrays, Task
from prune2deploy.tasks.objectives import Outputs
from prune2deploy.validation.assess import equality_check
from prune2deploy.validation.record import Check
from prune2deploy.validation.witness import Preprocessor

SERVED = Path(__file__).parent.parent / "serving" / "served"
REQUIREMENTS_FILE = "requirements.txt"
LABEL = TensorSpec("LABEL", "string", (1,))


def part_names(model: str, task: Task) -> dict[Role, str]:
    """What the entries around `model` are called, in the order in which a server should come to see them."""
    return {"preprocess": f"{model}_preprocess", "labels": f"{model}_labels", "ensemble": f"{model}_{task.served}"}


def serve_python(version: Path, source: str, requires: Sequence[str], **beside: str) -> list[str]:
    """Make `version` a python model of `prune2deploy/serving/served/<source>.py`; returns what it requires.

    `beside`: more of these files, by the name of the module that they become.
    """
    for name, file in {"model": source, **beside}.items():
        shutil.copyfile(SERVED / f"{file}.py", version / f"{name}.py")
    # numpy is what the server has it for; of the others, that is named which was checked here
    lines = [each if each == "numpy" else f"{each}=={importlib.metadata.version(each)}" for each in requires]
    write_text(version / REQUIREMENTS_FILE, "\n".join(lines) + "\n")
    return lines


def write_parts(
    folder: Path, model: str, project: Project, task: Task, inputs: list[TensorSpec], output: TensorSpec,
    max_batch_size: int,
) -> list[Path]:
    """Write the entries around `model` into `folder`: which takes `inputs`, and whose logits are `output`."""
    names = part_names(model, task)
    raw = [TensorSpec(name, "string", (1,)) for name in task.raw(1)]
    logits = TensorSpec("LOGITS", "float32", output.dims)
    instances = project.serving.instances

    preprocess = folder / names["preprocess"]
    version = _version_in(preprocess)
    task.write_preprocessing(version, project.workload)
    requirements = serve_python(version, "preprocess_model", task.requires, preprocessing=task.served)
    write_config(preprocess, step_config(preprocess.name, raw, inputs, max_batch_size, instances))
    _seal(preprocess, model, "preprocess", requirements)

    labels = folder / names["labels"]
    version = _version_in(labels)
    write_text(version / LABELS_FILE, "".join(f"{label}\n" for label in task.label_names()))
    requirements = serve_python(version, "labels_model", ["numpy"])
    write_config(labels, step_config(labels.name, [logits], [LABEL], max_batch_size, instances))
    _seal(labels, model, "labels", requirements)

    ensemble = folder / names["ensemble"]
    _version_in(ensemble)
    steps = {
        names["preprocess"]: ({spec.name: spec.name for spec in raw}, {spec.name: spec.name for spec in inputs}),
        model: ({spec.name: spec.name for spec in inputs}, {output.name: "LOGITS"}),
        names["labels"]: ({"LOGITS": "LOGITS"}, {"LABEL": "LABEL"}),
    }
    write_config(ensemble, ensemble_config(ensemble.name, raw, [logits, LABEL], max_batch_size, steps))
    _seal(ensemble, model, "ensemble", [])
    return [preprocess, labels, ensemble]


def _version_in(entry: Path) -> Path:
    version = entry / "1"
    version.mkdir(parents=True)
    return version


def _seal(entry: Path, model: str, role: Role, requirements: list[str]) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    part = PartManifest(
        name=entry.name, version=1, created_at=now, files=own_files(entry / "1"), shared=shared_files(entry), model=model,
        role=role, requirements=requirements,
    )  # fmt: skip
    write_sealed(part, entry / "1")


def staged_preprocessor(preprocess: Path) -> Preprocessor:
    """What the staged entry `preprocess` does to raw samples, by the files in it."""
    return _module(preprocess / "1" / "preprocessing.py").Preprocessor(preprocess / "1")


def raw_check(
    preprocessor: Preprocessor, task: Task, engine: Engine, wanted: Outputs, count: int, tolerance: float
) -> Check:
    """Whether `engine` makes `wanted`, up to `tolerance`, of the first `count` raw samples, through `preprocessor`."""
    raw, parts = task.raw(count), task.objective.parts
    rows: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    for index in range(count):
        inputs: Arrays = preprocessor({name: [column[index]] for name, column in raw.items()})
        said = engine.run(inputs)
        for name, part in parts.items():
            rows[name] += part.by_sample(said[name], task.counted(inputs))
    got = {name: part.gathered(rows[name]) for name, part in parts.items()}
    return equality_check("raw samples give the same", got, wanted, tolerance)


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
    return module


def refuse_other_parts(parts: Sequence[Path], repository: Path) -> None:
    """Raise InputError where the repository has something else under the name of one of `parts`."""
    for staged in parts:
        entry = repository / staged.name
        if entry.exists():
            there, here = (read_sealed(each / located(each)[1]) for each in (entry, staged))
            if not isinstance(there, PartManifest) or _data(there) != _data(here):
                raise InputError(f"{entry} is there and does something else: export under another --name")


def publish_parts(parts: Sequence[Path], repository: Path, keep: int) -> None:
    """Move into `repository` what it does not have yet of `parts`."""
    for staged in parts:
        entry = repository / staged.name
        if not entry.exists():
            publish(staged, entry, keep)
            continue
        newest = versions_of(entry)[-1]
        if own_files(entry / str(newest)) != own_files(staged / "1"):  # of another version of prune2deploy
            version = (staged / "1").rename(staged / str(newest + 1))
            write_sealed(read_sealed(version).model_copy(update={"version": newest + 1}), version)
            publish(staged, entry, keep)


def _data(sealed: Sealed) -> dict[str, str]:
    """What a part does, as against the code that does it."""
    files = {**sealed.files, **sealed.shared}
    return {name: digest for name, digest in files.items() if not name.endswith(".py") and name != REQUIREMENTS_FILE}
