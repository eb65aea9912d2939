"""Distillation: the kept weights are trained to answer as the dense model does, on samples without labels.

The only recovery that trains the whole model, and so the only one that is asked for by name. The loss is the task's own
objective against the dense model's outputs (Hinton et al. 2015). Embeddings stay as they are: they are most of the
weights of a small model, and nothing was cut from them.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.config import RecoverySettings
from prune2deploy.files import replacing
from prune2deploy.memory import give_back
from prune2deploy.models.family import blocks_of, layer_of
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import output_projection
from prune2deploy.models.surgery import shrunk, write_back_
from prune2deploy.models.vanished import BiasOnly
from prune2deploy.progress import Progress
from prune2deploy.provenance import COMPUTED, cache_key
from prune2deploy.tasks.base import OUTPUTS, Batch, Samples, Task, grouped

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BATCH = 16
TOKENS = 8192  # of a batch, padding among them
WIDTH = 384  # hidden size up to which the objective's learning rate is taken as it is; wider models take shorter steps
WARM_UP = 0.1  # of the steps
TEMPERATURE = 2.0  # of objectives that know one
LONGEST_GRADIENT = 1.0
SORTED = 32  # batches whose samples are sorted by length, so that little is padded
SAVED_AFTER = 30.0  # seconds
AVERAGES = ("exp_avg", "exp_avg_sq")  # that Adam keeps


@dataclass(frozen=True)
class Lesson:
    """What the pruned model is taught by: the dense model's outputs for `samples` of `task`.

    `state`: a directory where an interrupted lesson is found again.
    """

    dense: "PreTrainedModel"
    task: Task
    samples: list[Samples]
    settings: RecoverySettings
    seed: int
    state: Path


def distil(lesson: Lesson, pruned: "PreTrainedModel", plan: Plan, progress: Progress) -> None:
    """Train, in place, what `plan` keeps of the masked model `pruned`. One seed, one machine: the same weights."""
    import torch

    student = shrunk(pruned, plan)
    trained = trainable_(student)
    width = int(plan.signature.fixed["hidden_size"])
    rate = lesson.task.objective.learning_rate * min(1.0, WIDTH / width)
    optimiser = torch.optim.Adam(trained.values(), fused=True)
    saved, steps = Saved(lesson, student, trained, optimiser), lesson.settings.steps
    done, teacher = saved.restore(), Teacher(lesson)
    with progress.track("distilling", steps) as advance:
        for _ in range(done):
            advance()
        for step, number in enumerate(islice(teacher.order(), steps)):
            if step < done:
                continue
            optimiser.param_groups[0]["lr"] = rate * rate_at(step, steps)
            _step(lesson, student, teacher, number, list(trained.values()), optimiser)
            saved.keep(step + 1)
            advance()
    for parameter in trained.values():
        parameter.requires_grad_(False)
        parameter.grad = None
    write_all_back_(student, pruned, plan)
    saved.path.unlink(missing_ok=True)
    give_back()


def _step(
    lesson: Lesson, student: "PreTrainedModel", teacher: "Teacher", number: int, parameters: "list[torch.Tensor]",
    optimiser: "torch.optim.Optimizer",
) -> None:
    """One step on batch `number`."""
    import torch

    batch, wanted = teacher.batch(number)
    optimiser.zero_grad()
    said = lesson.task.said(student, batch.tensors(student.device))
    counted = batch.counts()
    losses = lesson.task.objective.distillation_losses(said, wanted, TEMPERATURE, counted)
    losses.mean().backward()
    torch.nn.utils.clip_grad_norm_(parameters, LONGEST_GRADIENT)
    optimiser.step()


def rate_at(step: int, steps: int) -> float:
    """The share of the full rate at `step` of `steps`: it rises in a warm-up, and then falls to 0, both evenly."""
    warm = max(1, math.ceil(WARM_UP * steps))
    return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


def trainable_(model: "PreTrainedModel") -> "dict[str, nn.Parameter]":
    """What of `model` is trained, by name, and asks for gradients now: all but embeddings and what has their weights."""
    from torch import nn

    frozen = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    frozen |= {id(each.bias) for each in model.modules() if isinstance(each, BiasOnly) and each.made_up}
    found = {name: each for name, each in model.named_parameters() if id(each) not in frozen and each.is_floating_point()}
    for parameter in found.values():
        parameter.requires_grad_()
    return found


def write_all_back_(student: "PreTrainedModel", pruned: "PreTrainedModel", plan: Plan) -> None:
    """Copy what `student`, a shrunk copy of the masked `pruned`, has in its blocks to where it came from.

    All else the two have in common.
    """
    import torch

    for block in blocks_of(pruned):
        small, layer = layer_of(student, block), layer_of(pruned, block)
        if kept := plan.units(block):
            write_back_(small, layer, block, kept)
            continue
        bias = output_projection(pruned, block).bias
        stand_ins = [small.get_submodule(each.path) for each in block.gone]
        left = next((each for each in stand_ins if isinstance(each, BiasOnly)), None)
        if bias is not None and left is not None:
            with torch.no_grad():
                bias.copy_(left.bias)


class Teacher:
    """Batches that never change, and what the dense model says of each: asked once, as far as there is room to keep it."""

    def __init__(self, lesson: Lesson):
        self.lesson, self.rng = lesson, np.random.default_rng(lesson.seed)
        parts = [batches_of(samples, self.rng) for samples in lesson.samples]
        self.batches = [(part, indices) for part, batches in enumerate(parts) for indices in batches]
        self.kept: dict[int, dict[str, torch.Tensor]] = {}
        self.room = OUTPUTS

    def order(self) -> Iterator[int]:
        """The numbers of batches: all, by chance, and then all again."""
        while True:
            yield from self.rng.permutation(len(self.batches)).tolist()

    def batch(self, number: int) -> "tuple[Batch, dict[str, torch.Tensor]]":
        """(the batch, what the dense model says of it)."""
        import torch

        part, indices = self.batches[number]
        batch, dense = self.lesson.samples[part].batch(indices), self.lesson.dense
        if number in self.kept:
            return batch, self.kept[number]
        with torch.no_grad():
            said = self.lesson.task.said(dense, batch.tensors(dense.device))
        size = sum(tensor.numel() for tensor in said.values())
        if size <= self.room:
            self.room -= size
            self.kept[number] = said
        return batch, said


def batches_of(samples: Samples, rng: np.random.Generator) -> list[list[int]]:
    """All samples by chance in batches of `BATCH`, or as many fewer as are long; those of one batch are about as long."""
    order, lengths = rng.permutation(len(samples)).tolist(), [samples.tokens(index) or 1 for index in range(len(samples))]
    batches: list[list[int]] = []
    for start in range(0, len(order), SORTED * BATCH):
        some = sorted(order[start : start + SORTED * BATCH], key=lambda index: lengths[index])
        batches += grouped(some, lengths, BATCH, TOKENS)
    return batches


class Saved:
    """A lesson that was interrupted, in a file that the same lesson finds again: step, weights, and Adam's averages."""

    def __init__(
        self, lesson: Lesson, student: "PreTrainedModel", trained: "dict[str, nn.Parameter]",
        optimiser: "torch.optim.Optimizer",
    ):
        self.trained, self.optimiser = trained, optimiser
        key = cache_key(
            COMPUTED, digest_of_weights(student), *(samples.digest() for samples in lesson.samples), lesson.seed,
            lesson.settings.model_dump_json(),
        )  # fmt: skip
        self.path = lesson.state / f"distil-{key}.safetensors"
        self.at = time.monotonic()

    def restore(self) -> int:
        """Put back, in place, what was saved; how many steps were done."""
        import torch
        from safetensors.torch import load_file

        if not self.path.is_file():
            return 0
        try:
            found = load_file(self.path)
            done = int(found["step"])
            kept = {
                name: [found[f"{what}.{name}"].reshape(parameter.shape) for what in ("weight", *AVERAGES)]
                for name, parameter in self.trained.items()
            }
        except Exception:  # of whatever kind a damaged file makes its reader raise: the lesson begins again
            self.path.unlink()
            return 0
        for name, parameter in self.trained.items():
            weight, *averages = kept[name]
            with torch.no_grad():
                parameter.copy_(weight)
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(done)), **dict(zip(AVERAGES, averages, strict=True))
            }
        return done

    def keep(self, step: int) -> None:
        """Save what there is after `step` steps, now and then."""
        import torch
        from safetensors.torch import save_file

        if time.monotonic() - self.at < SAVED_AFTER:
            return
        tensors = {"step": torch.tensor(step)}
        for name, parameter in self.trained.items():
            tensors[f"weight.{name}"] = parameter.detach().contiguous()
            tensors |= {f"{each}.{name}": self.optimiser.state[parameter][each].contiguous() for each in AVERAGES}
        with replacing(self.path) as partial:
            save_file(tensors, partial)
        self.at = time.monotonic()


def digest_of_weights(model: "PreTrainedModel") -> str:
    """Of all tensors of `model`."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
