"""What each part of our method is worth: all of it, and then each part off, one at a time.

    python benchmarks/ablation.py PROJECT --name minilm-sst2 --work WORK --out benchmarks/results

PROJECT is a directory with a prune2deploy.toml and, after `prune2deploy profile`, its latency table. Budgets are shares of
the dense latency by the table; nothing is timed here. Divergence from the dense model is taken on the evaluation split, the
same samples for all. WORK keeps what was found, so that an interrupted run goes on.
"""

import copy
import json
from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from accuracy_latency import project_parser, read_options

from prune2deploy.config import Project
from prune2deploy.console import RichProgress
from prune2deploy.models.projection import Projection, output_projection
from prune2deploy.pruning.methods.method import State, Step
from prune2deploy.pruning.methods.ours import OursMethod, curve_of
from prune2deploy.pruning.recovery import reconstruction, selection
from prune2deploy.pruning.recovery import refit as refitting
from prune2deploy.pruning.recovery.refit import refit
from prune2deploy.pruning.recovery.tuning import write_columns
from prune2deploy.pruning.search.costs import Costs, LatencyCosts
from prune2deploy.pruning.statistics.block_statistics import BlockStatistics
from prune2deploy.pruning.statistics.calibrate import Calibration, fisher_information
from prune2deploy.pruning.statistics.importance import fisher_importance
from prune2deploy.pruning.statistics.moments import BlockMoments, Moments, moments_of
from prune2deploy.pruning.workbench import Workbench
from prune2deploy.tasks.base import Batch
from prune2deploy.tasks.objectives import Joint
from prune2deploy.tasks.predict import outputs_of, torch_run
from prune2deploy.tasks.text_classification import TextClassification

SHARES = (0.5, 1 / 3)
SEEDS = (0, 1)


class Changed(OursMethod):
    """Ours with other moments; the curves follow."""

    def __init__(self, calibration: Calibration):
        super().__init__(calibration)
        moments = self.changed(moments_of(calibration))
        for block, found in moments.blocks.items():
            self.importance[block] = curve_of(calibration.model, block, found)
        self.moments = moments.without_covariances()

    @abstractmethod
    def changed(self, moments: Moments) -> Moments: ...


class UniformTokens(Changed):
    def changed(self, moments: Moments) -> Moments:
        even = {block: [np.ones_like(each) for each in weights] for block, weights in moments.weights.items()}
        return Moments(moments.blocks, even)


class PlainError(Changed):
    """Squared error of the output: all its directions matter alike, as much as on average in the block."""

    def changed(self, moments: Moments) -> Moments:
        blocks = {}
        for block, found in moments.blocks.items():
            size = len(found.sensitivity)
            even = float(np.trace(found.sensitivity)) / size * np.eye(size)
            blocks[block] = BlockMoments(found.mean, found.covariance, even)
        return Moments(blocks, moments.weights)


class RelativeError(Changed):
    """The same, and all blocks matter alike: the error is relative to the block's output, as in ZipLM."""

    def changed(self, moments: Moments) -> Moments:
        blocks = {}
        for block, found in moments.blocks.items():
            weight = output_projection(self.calibration.model, block).weight.double().numpy()
            even = np.eye(len(weight)) / float(np.einsum("ij,jk,ik->", weight, found.covariance, weight))
            blocks[block] = BlockMoments(found.mean, found.covariance, even)
        return Moments(blocks, moments.weights)


class MaskFisher(OursMethod):
    """Widths and first units by the diagonal Fisher information of masks (Kwon 2022, per sample)."""

    def __init__(self, calibration: Calibration):
        super().__init__(calibration)
        found = fisher_importance(fisher_information(calibration).diagonal)
        self.importance.update(found)  # in place: the search has the same curves


class SharpPredictions(OursMethod):
    """Fisher information of the predictions as they are, not softened."""

    def __init__(self, calibration: Calibration):
        with patch("prune2deploy.pruning.statistics.moments.TEMPERATURE", 1.0):
            super().__init__(replace(calibration, cache=None))


@dataclass(frozen=True)
class LabelGradients(Joint):
    """Its probes are gradients of the loss of `labels`, which belong to the batch that came last."""

    labels: list[np.ndarray]

    def fisher_probe(
        self, outputs: dict[str, torch.Tensor], generator: torch.Generator, counted: torch.Tensor | None = None,
        temperature: float = 1.0,
    ) -> dict[str, torch.Tensor]:
        [(name, logits)] = outputs.items()
        wanted = torch.nn.functional.one_hot(torch.from_numpy(self.labels[-1]), logits.shape[-1])
        return {name: logits.softmax(-1) - wanted}


class WithLabels(SharpPredictions):
    """Gradients of the labels' own loss, in place of those of the predicted distribution."""

    def __init__(self, calibration: Calibration):
        samples, task = copy.copy(calibration.samples), copy.copy(calibration.task)
        labels: list[np.ndarray] = []

        def batch(indices: list[int]) -> Batch:
            found = calibration.samples.batch(indices)
            assert found.labels is not None
            labels.append(found.labels)
            return found

        samples.batch = batch  # type: ignore[method-assign]
        task.objective = LabelGradients(task.objective.parts, labels)
        super().__init__(replace(calibration, samples=samples, task=task))
        self.calibration = calibration


class NoReconstruction(OursMethod):
    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        return super().steps(costs, budget)[:1]


class EvenReconstruction(OursMethod):
    """Reconstruction by the squared error of the output, all its directions alike."""

    def _reconstruct(self, state: State) -> State:
        with patch.object(reconstruction, "EVEN", 1.0):
            return super()._reconstruct(state)


class NoSelectionNorRefit(OursMethod):
    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        return super().steps(costs, budget)[1:]


class SelectionBeforehand(OursMethod):
    """Units as the removal curves of the dense model have them; only the re-fit sees the pruned prefix."""

    def steps(self, costs: Costs, budget: float) -> list[tuple[str, Step]]:
        def refitting(state: State) -> State:
            calibration = self.calibration
            refit(calibration.model, state.model, state.plan, calibration.samples, calibration.progress)
            return state

        return [("re-fit", refitting), *super().steps(costs, budget)[1:]]


class NoRefit(OursMethod):
    """Units chosen on the pruned prefix, their weights left as they are but for the bias."""

    def _select(self, state: State) -> State:
        with patch.object(selection, "fit_columns", bias_only):
            return super()._select(state)


def bias_only(projection: Projection, columns: torch.Tensor, statistics: BlockStatistics) -> None:
    write_columns(projection, columns, projection.weight[:, columns].double(), statistics)


class UniformDraw(OursMethod):
    """Calibration samples as likely one as the other, however long they are: `measure` sees to it."""


class WeakRidge(OursMethod):
    """A tenth of the pull toward the weights that are there."""

    factor = 0.1

    def _select(self, state: State) -> State:
        with patch.object(refitting, "RIDGE", self.factor * refitting.RIDGE):
            return super()._select(state)


class StrongRidge(WeakRidge):
    """Ten times the pull."""

    factor = 10


VARIANTS: dict[str, type[OursMethod]] = {
    "all of it": OursMethod,
    "no block reconstruction": NoReconstruction,
    "reconstruction with all directions alike": EvenReconstruction,
    "no selection on the prefix": SelectionBeforehand,
    "no re-fit of the weights": NoRefit,
    "neither selection nor re-fit": NoSelectionNorRefit,
    "a weaker ridge": WeakRidge,
    "a stronger ridge": StrongRidge,
    "samples drawn whatever their length": UniformDraw,
    "all tokens count alike": UniformTokens,
    "all output directions count alike": PlainError,
    "all blocks count alike, too": RelativeError,
    "widths by the masks' Fisher information": MaskFisher,
    "predictions as sharp as they are": SharpPredictions,
    "with labels": WithLabels,
}


def measure(project: Project, name: str, seed: int, work: Path) -> list[dict]:
    """One variant and seed at every share."""
    kept = work / f"{name.replace(' ', '-')}-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    seeded = project.model_copy(update={"calibration": project.calibration.model_copy(update={"seed": seed})})
    uniform = patch.object(TextClassification, "sizes", lambda task, rows, split: None)
    with uniform if VARIANTS[name] is UniformDraw else nullcontext():
        workbench = Workbench(seeded, progress=RichProgress())
    workbench.chosen = VARIANTS[name]
    costs = LatencyCosts(workbench.table[0])
    cells = []
    for share in SHARES:
        budget = share * workbench.table[0].dense_ms
        method, stages = workbench.method, workbench.stages.afresh()
        plan = method.search(costs, budget)
        state = State(plan, method.masked(plan))
        stages.add("search", state, 0.0)
        for step_name, step in method.steps(costs, budget):
            state = step(state)
            stages.add(step_name, state, 0.0)
        task = stages.task
        outputs, dense = (
            outputs_of(torch_run(model, task), task, stages.evaluation) for model in (state.model, workbench.model)
        )
        divergence = task.objective.divergence(outputs, dense)
        cells.append({
            "variant": name, "seed": seed, "share": share, "score": stages.results[-1].score, "divergence": divergence,
            "stages": [result.model_dump(mode="json") for result in stages.results],
        })  # fmt: skip
    kept.write_text(json.dumps(cells))
    return cells


def table(cells: list[dict]) -> list[str]:
    header = [f"{what} at {share:.2f}" for share in SHARES for what in ("divergence", "accuracy")]
    lines = ["| | " + " | ".join(header) + " |", "|---|" + "---|" * len(header)]
    for name in dict.fromkeys(cell["variant"] for cell in cells):
        row = []
        for share in SHARES:
            own = [cell for cell in cells if (cell["variant"], cell["share"]) == (name, share)]
            for what, digits in (("divergence", 4), ("score", 2)):
                values = [cell[what] for cell in own]
                row.append(f"{np.mean(values):.{digits}f}")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return lines


def main() -> None:
    options, project = read_options(project_parser(__doc__, SEEDS))
    cells = [cell for seed in options.seeds for name in VARIANTS for cell in measure(project, name, seed, options.work)]
    (options.out / f"ablation-{options.name}.json").write_text(json.dumps(cells, indent=1) + "\n")
    lines = table(cells)
    (options.out / f"ablation-{options.name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
