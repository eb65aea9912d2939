"""The entries around a model: raw text or image to its inputs, its outputs to answers, and what joins the steps.

They change less often than the model and are shared by all of its versions, so an export leaves them as they are where
they would come out the same.
"""

import datetime
import importlib.metadata
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from prune2deploy.config import Project
from prune2deploy.errors import InputError
from prune2deploy.files import pretty_json, write_text
from prune2deploy.repository.manifest import PartManifest, Role, Sealed, own_files, read_sealed, shared_files, write_sealed
from prune2deploy.repository.triton import TensorSpec, ensemble_config, step_config, write_config
from prune2deploy.repository.versions import located, publish, versions_of
from prune2deploy.runtimes.base import Engine
from prune2deploy.tasks.base import Run, Samples, Serving, Task
from prune2deploy.tasks.predict import outputs_of
from prune2deploy.validation.assess import SAMPLES, equality_check
from prune2deploy.validation.record import Check
from prune2deploy.validation.witness import Preprocessor

SERVED = Path(__file__).parent.parent / "serving" / "served"
REQUIREMENTS_FILE = "requirements.txt"
ASKED_FILE = "asked.json"  # which model a chain asks, and how much at once
CHAINS = 2  # instances of a chain, so that one makes inputs while another waits for its model


def part_names(model: str, task: Task) -> dict[Role, str]:
    """What the entries around `model` are called, in the order in which a server should come to see them."""
    serving, names = task.serving, dict[Role, str]()
    if serving is None:
        return names
    if serving.outputs:
        names["preprocess"] = f"{model}_preprocess"
        if serving.answer:
            names["labels"] = f"{model}_{serving.answer.removesuffix('_model')}"
        names["ensemble"] = f"{model}_{task.served}"
    if serving.chain and (not serving.outputs or task.has_pairs):
        names["chain"] = f"{model}_{serving.chain.removesuffix('_model')}"
    return names


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
    folder: Path, model: str, project: Project, task: Task, inputs: list[TensorSpec], outputs: list[TensorSpec],
    max_batch_size: int,
) -> list[Path]:
    """Write the entries around `model`, which takes `inputs` and gives `outputs`, into `folder`."""
    names = part_names(model, task)
    parts = Parts(folder, model, project, task, inputs, outputs, max_batch_size, names)
    write = {"preprocess": parts.preprocess, "labels": parts.answering, "ensemble": parts.ensemble, "chain": parts.chain}
    return [write[role]() for role in names]


@dataclass(frozen=True)
class Parts:
    """The entries around one model; each method writes one into `folder`, and returns it."""

    folder: Path
    model: str
    project: Project
    task: Task
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    max_batch_size: int
    names: dict[Role, str]

    def preprocess(self) -> Path:
        """Raw samples to the model's inputs, and what the answering must know beside."""
        entry, version = self._entry("preprocess")
        self.task.write_preprocessing(version, self.project.workload)
        requirements = serve_python(version, "preprocess_model", self.task.requires, preprocessing=self.task.served)
        self._configure(entry, self._raw, [*self.inputs, *self._passed])
        return self._sealed(entry, "preprocess", requirements)

    def answering(self) -> Path:
        """The model's outputs to answers."""
        entry, version = self._entry("labels")
        self.task.write_answering(version)
        assert self._serving.answer is not None
        requirements = serve_python(version, self._serving.answer, ["numpy"])
        self._configure(entry, [*self._served_outputs, *self._passed], self._answers)
        return self._sealed(entry, "labels", requirements)

    def ensemble(self) -> Path:
        """All steps in one."""
        entry, _ = self._entry("ensemble")
        called = {output.name: self._serving.outputs[output.name] for output in self.outputs}
        own = {spec.name: spec.name for spec in self._raw}
        steps = {
            self.names["preprocess"]: (own, {spec.name: spec.name for spec in [*self.inputs, *self._passed]}),
            self.model: ({spec.name: spec.name for spec in self.inputs}, called),
        }
        if "labels" in self.names:
            taken = {spec.name: spec.name for spec in [*self._served_outputs, *self._passed]}
            steps[self.names["labels"]] = (taken, {spec.name: spec.name for spec in self._answers})
        given = [*self._served_outputs, *(self._answers if "labels" in self.names else [])]
        write_config(entry, ensemble_config(entry.name, self._raw, given, self.max_batch_size, steps))
        return self._sealed(entry, "ensemble", [])

    def chain(self) -> Path:
        """A model that makes the inputs, asks the model, and answers."""
        entry, version = self._entry("chain")
        self.task.write_preprocessing(version, self.project.workload)
        self.task.write_answering(version)
        assert self._serving.chain is not None
        write_text(version / ASKED_FILE, pretty_json({"model": self.model, "most": self.max_batch_size}) + "\n")
        requirements = serve_python(version, self._serving.chain, self.task.requires, preprocessing=self.task.served)
        config = step_config(
            entry.name, _specs(self._serving.takes), _specs(self._serving.gives), self.max_batch_size, CHAINS
        )  # fmt: skip
        write_config(entry, config)
        return self._sealed(entry, "chain", requirements)

    @property
    def _serving(self) -> Serving:
        assert self.task.serving is not None
        return self.task.serving

    @property
    def _raw(self) -> list[TensorSpec]:
        return [TensorSpec(name, "string", (1,)) for name in self.task.raw(1)]

    @property
    def _passed(self) -> list[TensorSpec]:
        return _specs(self._serving.passed)

    @property
    def _served_outputs(self) -> list[TensorSpec]:
        return [TensorSpec(self._serving.outputs[output.name], output.dtype, output.dims) for output in self.outputs]

    @property
    def _answers(self) -> list[TensorSpec]:
        return _specs(self._serving.gives)

    def _entry(self, role: Role) -> tuple[Path, Path]:
        entry = self.folder / self.names[role]
        version = entry / "1"
        version.mkdir(parents=True)
        return entry, version

    def _configure(self, entry: Path, taken: list[TensorSpec], given: list[TensorSpec]) -> None:
        instances = self.project.serving.instances
        write_config(entry, step_config(entry.name, taken, given, self.max_batch_size, instances))

    def _sealed(self, entry: Path, role: Role, requirements: list[str]) -> Path:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        part = PartManifest(
            name=entry.name, version=1, created_at=now, files=own_files(entry / "1"), shared=shared_files(entry),
            model=self.model, role=role, requirements=requirements, together=list(self.names),
        )  # fmt: skip
        write_sealed(part, entry / "1")
        return entry


def _specs(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[TensorSpec]:
    return [TensorSpec(name, kind, shape) for name, (kind, shape) in tensors.items()]


def staged_preprocessor(part: Path) -> Preprocessor:
    """What the staged entry `part`, the first of them, does to raw samples, by the files in it."""
    return _module(part / "1" / "preprocessing.py").Preprocessor(part / "1")


def raw_check(
    preprocessor: Preprocessor, task: Task, engine: Engine, run: Run, samples: Samples, tolerance: float
) -> Check:
    """Whether `engine` makes what `run` makes of the first of `samples`, up to `tolerance`, of them as raw ones.

    `preprocessor` makes the model's inputs.
    """
    raw, parts = task.raw(SAMPLES), task.objective.parts
    taken = task.samples_of_raw(samples, min(len(column) for column in raw.values()))
    indices = [index for each in taken for index in each][: len(samples.first(SAMPLES))]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    for number in range(len(taken)):
        inputs = task.model_inputs(preprocessor({name: [column[number]] for name, column in raw.items()}))
        said = engine.run(inputs)
        for name, part in parts.items():
            rows[name] += part.by_sample(said[name], task.counted(inputs))
        if len(rows[task.outputs[0]]) >= len(indices):
            break
    got = {name: part.gathered(rows[name][: len(indices)]) for name, part in parts.items()}
    wanted = outputs_of(run, task, samples.select(indices))
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
