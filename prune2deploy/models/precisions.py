"""The precisions of a plan, as roundings of the linear layers that its blocks are made of."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune2deploy.errors import InputError
from prune2deploy.files import read_arrays, write_arrays
from prune2deploy.graphs.onnx_model import export_onnx, exported_form
from prune2deploy.graphs.quantise import quantise
from prune2deploy.models.block import Block
from prune2deploy.models.input_rounding import exact_inputs
from prune2deploy.models.plan import Plan
from prune2deploy.models.projection import linears_of
from prune2deploy.precisions import FORMATS, Rounding, for_timing

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from prune2deploy.tasks.base import Task

INSIDE = "model."  # where an exported module has the model


def paths_in_less(model: "nn.Module", plan: Plan, blocks: Iterable[Block]) -> dict[str, str]:
    """The linear layers of the shrunk `model` that are not in the engine's own precision, by path, each with its own."""
    return {
        f"{block.root}.{path}": precision for block in blocks if (precision := plan.precision(block))
        for path in linears_of(model.get_submodule(block.root), block)
    }  # fmt: skip


def quantise_for_timing(
    onnx_file: Path, exported: "nn.Module", plan: Plan, blocks: Iterable[Block], narrow: bool
) -> None:
    """Put in the place of `onnx_file`, the graph of `exported`, one with the precisions of `plan`; only its time counts."""
    model = exported.get_submodule(INSIDE.rstrip("."))
    roundings: dict[str, Rounding] = {}
    for path, precision in paths_in_less(model, plan, blocks).items():
        roundings |= for_timing(exported, [INSIDE + path], precision, narrow)
    if roundings:
        quantise(onnx_file, exported, roundings, onnx_file)


def export_rounded(model: "PreTrainedModel", task: "Task", roundings: Mapping[str, Rounding], path: Path) -> None:
    """Write the shrunk `model` to `path` with its layers in `roundings`, by path, in lower precision."""
    with exact_inputs(model):
        export_onnx(model, task, path)
    if roundings:
        in_exported = {INSIDE + layer: rounding for layer, rounding in roundings.items()}
        quantise(path, exported_form(model, task), in_exported, path)


def write_roundings(file: Path, roundings: Mapping[str, Rounding]) -> None:
    """Write grids, so that `read_roundings` finds them."""
    arrays = {f"{path}.scale": rounding.scale for path, rounding in roundings.items()}
    arrays |= {f"{path}.inputs": np.array([rounding.low, rounding.high]) for path, rounding in roundings.items()}
    write_arrays(file, arrays)


def read_roundings(
    file: Path, precisions: Mapping[str, str], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Rounding]:
    """The grids in `file`; raises InputError where it is damaged, or does not fit.

    `precisions`: of each linear layer that is in a lower one, by path; `shapes`: of their weights, [outputs, inputs].
    """
    arrays = read_arrays(file)
    if set(arrays) != {f"{path}.{part}" for path in precisions for part in ("scale", "inputs")}:
        raise InputError(f"{file}: has not the layers that the plan names: make the model again with `prune2deploy prune`")
    found = {}
    for path, precision in precisions.items():
        scale, limits = arrays[f"{path}.scale"].astype(np.float32), arrays[f"{path}.inputs"]
        outputs, inputs = shapes[path]
        form = FORMATS.get(precision)
        groups = 0 if form is None else 2 if form.pieces == 2 else -(-inputs // form.group) if form.group else 1
        sane = scale.shape == (outputs, groups) and limits.shape == (2,) and np.isfinite(limits).all()
        if form is None or not sane or not (np.isfinite(scale).all() and (scale > 0).all()):
            raise InputError(f"{file}: {path} is not rounded as {precision} is: make it again with `prune2deploy prune`")
        found[path] = Rounding(precision, scale, float(limits[0]), float(limits[1]))
    return found
