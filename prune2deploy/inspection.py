"""What is in a model, a pruned model, a latency table or a package, for people and for machines."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from prune2deploy.errors import InputError
from prune2deploy.files import Record, read_record
from prune2deploy.models.block import Block
from prune2deploy.models.capture import first_call, positions_of
from prune2deploy.models.checkpoint import PLAN_FILE, load_dense, read_pruned_record, resolve_model
from prune2deploy.models.family import blocks_of, family_of, layer_of, shape_of_one
from prune2deploy.models.image_processor import image_shape
from prune2deploy.models.projection import output_projection
from prune2deploy.models.signature import Signature, signature_of
from prune2deploy.models.surgery import tensors_of
from prune2deploy.models.table import LatencyTable, read_table
from prune2deploy.pruning.search.costs import macs_of
from prune2deploy.repository.manifest import MANIFEST_FILE, read_manifest
from prune2deploy.repository.versions import located
from prune2deploy.validation.record import Report

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENS = 128  # of the text that FLOPs are counted for
WIDTHS_SHOWN = 6  # of a curve
Cell = str | int | float


class Rows(Record):
    """A table for people: the names of its columns, and its rows."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


class Inspection(Record):
    """What was found. `facts`: one value each; `tables`: the rest."""

    kind: Literal["model", "pruned model", "latency table", "package"]
    name: str
    facts: dict[str, Cell]
    tables: list[Rows] = Field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person to read."""
        width = max(map(len, self.facts))
        lines = [f"{self.kind}: {self.name}", *(f"  {name:<{width}}  {shown(value)}" for name, value in self.facts.items())]
        for table in self.tables:
            lines += ["", table.title, *(f"  {line}" for line in aligned([table.columns, *table.rows]))]
        return lines


def inspect(what: str, root: Path) -> Inspection:
    """Look at `what`: a directory or a file, seen from `root`, or a hub id; raises InputError where it is nothing of ours.

    A model directory or hub id; a pruned model's directory, or the plan in it; a latency table; an entry of a model
    repository, or one version of it.
    """
    path = (root / Path(what).expanduser()).resolve()
    if path.name == PLAN_FILE or (path / PLAN_FILE).is_file():
        return _of_pruned(path if path.is_dir() else path.parent)
    if path.suffix == ".json" and path.name != "config.json":
        return _of_table(path)
    if any((path / name).exists() for name in ("config.pbtxt", MANIFEST_FILE)):
        return _of_package(path)
    directory = resolve_model(what, root)
    if not (directory / "config.json").exists() and list(directory.glob("*/config.pbtxt")):
        raise InputError(f"{directory} is a model repository: name one of its entries, such as {_first_entry(directory)}")
    return _of_model(directory)


def _first_entry(repository: Path) -> str:
    return sorted(str(path.parent) for path in repository.glob("*/config.pbtxt"))[0]


def _of_model(directory: Path) -> Inspection:
    model = load_dense(directory)
    blocks = blocks_of(model)
    inputs = example_of(model)
    positions = positions_of(first_call(model, inputs).hidden)
    macs = macs_of(model, blocks, inputs, positions)
    parameters = {block: _parameters(model, block) for block in blocks}
    every = sum(tensor.numel() for tensor in model.parameters())
    prunable = sum(parameters.values())
    signature = signature_of(model.config)
    at = f"one text of {positions} tokens" if "input_ids" in inputs else "one image"
    rows: list[list[Cell]] = [
        [block.key, block.kind, block.curve, block.units, block.unit_size, block.calls, parameters[block],
         round(2 * macs[block] * block.units / 1e6, 3)]
        for block in blocks
    ]  # fmt: skip
    return Inspection(
        kind="model", name=str(directory),
        facts={
            "class": model.config.architectures[0], "family": signature.family, "signature": signature.name,
            "parameters": every, "of them in blocks": f"{shown(prunable)} ({100 * prunable / every:.1f} %)",
            f"MFLOPs of the blocks, {at}": round(2 * sum(macs[block] * block.units for block in blocks) / 1e6, 1),
        },
        tables=[
            Rows(
                title="blocks, in forward order (MFLOPs: of all calls)",
                columns=["block", "kind", "curve", "units", "columns of a unit", "calls", "parameters", "MFLOPs"], rows=rows,
            ),
            Rows(title="what stays as it is", columns=["module", "parameters"], rows=_fixed(model, blocks, prunable)),
        ],
    )  # fmt: skip


def example_of(model: "PreTrainedModel") -> "dict[str, torch.Tensor]":
    """One text of `TOKENS` tokens, or as many as the model takes, or one image, made up."""
    import torch

    config = model.config
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.zeros(1, *image_shape(config))}
    length = min(TOKENS, family_of(config).longest(config) or TOKENS)
    shape = shape_of_one(config, length)
    return {"input_ids": torch.full(shape, min(5, config.vocab_size - 1)), "attention_mask": torch.ones(shape)}


def _parameters(model: "PreTrainedModel", block: Block) -> int:
    """How many parameters go when all units of `block` do."""
    layer = layer_of(model, block)
    made = sum(tensor.numel() for cut in block.cuts for tensor in tensors_of(layer, cut))
    return made + output_projection(model, block).weight.numel()


def _fixed(model: "PreTrainedModel", blocks: list[Block], inside: int) -> list[list[Cell]]:
    """Parameters outside the blocks, which have `inside`, by the module that has them."""
    prefix = model.base_model_prefix if hasattr(model, model.base_model_prefix) else ""
    every: dict[str, int] = {}
    for name, tensor in model.named_parameters():
        words = name.removeprefix(f"{prefix}.").split(".") if prefix else name.split(".")
        in_layers = any(name.startswith(f"{block.root}.") for block in blocks)
        group = "layers, beside their blocks" if in_layers else words[0]
        every[group] = every.get(group, 0) + tensor.numel()
    every["layers, beside their blocks"] = every.get("layers, beside their blocks", 0) - inside
    return [[name, count] for name, count in sorted(every.items(), key=lambda entry: -entry[1]) if count]


def _of_pruned(directory: Path) -> Inspection:
    record = read_pruned_record(directory)
    made, signature = record.provenance, record.plan.signature
    stages: list[list[Cell]] = [
        [each.stage, f"{each.score:.2f} ± {each.standard_error:.2f} {each.metric}", f"{each.reconstruction_error:.3f}",
         f"{each.divergence:.3g}", "yes" if each.kept else "no"]
        for each in made.stages
    ]  # fmt: skip
    return Inspection(
        kind="pruned model", name=str(directory),
        facts={
            "made from": made.source, "task": made.task, "method": made.method, "budget": str(made.budget),
            "signature": signature.name, "calibrated on": f"{made.calibration_samples} samples of {made.data}",
            "seed": made.seed,
        },
        tables=[
            _widths(record.plan.widths_by_key(), signature, record.plan.precisions),
            Rows(title="stages", columns=["stage", "score", "reconstruction error", "divergence", "kept"], rows=stages),
        ],
    )  # fmt: skip


def _widths(kept: Mapping[str, int], signature: Signature, precisions: Mapping[str, str]) -> Rows:
    rows: list[list[Cell]] = []
    for key, width in kept.items():
        units = signature.units(key)
        rows.append([key, width, units, f"{100 * width / units:.0f} %" if width else "gone"])
        rows[-1] += [precisions.get(key, "")] if precisions else []
    return Rows(
        title="what is kept", columns=["block", "units", "of", "", *(["in"] if precisions else [])], rows=rows
    )


def _of_table(path: Path) -> Inspection:
    table = read_table(path)
    return Inspection(
        kind="latency table", name=str(path),
        facts={
            "signature": table.signature.name, "device": f"{table.device.name} ({table.device.cores} cores)",
            "runtime": f"{table.runtime.name} {table.runtime.version} ({table.runtime.provider})",
            "half of every block": f"{table.halved_speedup:.2f}× as fast",
            "precision": table.precision, "threads": table.runtime.threads, "measured": table.measured_at,
            "predicts unseen plans to (median)": f"{100 * table.median_error:.1f} %",
        },
        tables=[_curves(table, index) for index in range(len(table.points))],
    )  # fmt: skip


def _curves(table: LatencyTable, index: int) -> Rows:
    """Of one workload point: a row a curve, with some of its widths."""
    point = table.points[index]
    rows: list[list[Cell]] = []
    for name, shape in table.signature.curves.items():
        count = sum(table.signature.calls.get(key, 1) for key, of in table.signature.blocks.items() if of == name)
        for curve in point.curves[name]:
            step = max(1, -(-(len(curve.widths) - 1) // (WIDTHS_SHOWN - 1)))
            some = sorted({*range(0, len(curve.widths), step), len(curve.widths) - 1})
            said = ", ".join(f"{curve.widths[place]}: {curve.ms[place]:.3g}" for place in some)
            rows.append([name, curve.precision, shape.units, count, said])
    title = f"{point.point}: dense {point.dense_ms:.3g} ms, without any block {point.fixed_ms:.3g} ms"
    columns = ["curve", "in", "units", "runs", "ms that one run of a block adds, by width"]
    return Rows(title=title, columns=columns, rows=rows)


def _of_package(path: Path) -> Inspection:
    entry, version = located(path)
    manifest = read_manifest(entry / version)
    report = read_record(entry / version / "report.json", Report, "report", "export the model again")
    signature = report.signature
    checks: list[list[Cell]] = [[each.name, "passed" if each.passed else "FAILED", each.detail] for each in manifest.checks]
    points = ", ".join(map(str, manifest.workload))
    return Inspection(
        kind="package", name=str(entry / version),
        facts={
            "verdict": manifest.verdict, "made from": manifest.source, "task": manifest.task, "method": manifest.method,
            "budget": str(manifest.budget), "workload": points,
            "measured": f"{manifest.dense_ms:.3g} → {manifest.measured_ms:.3g} ms ({manifest.speedup:.2f}×)",
            "on": f"{manifest.device.name}, {manifest.runtime.name} {manifest.runtime.version}, {manifest.target.precision}",
            manifest.metric_dense.metric: f"{manifest.metric_dense.value:.2f} → {manifest.metric_pruned.value:.2f}",
        },
        tables=[
            _widths(report.widths, signature, report.precisions),
            Rows(title="checks", columns=["check", "", "detail"], rows=checks),
        ],
    )  # fmt: skip


def aligned(rows: list[list[Any]]) -> list[str]:
    """Rows as lines with columns one below the other, numbers to the right."""
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [all(isinstance(row[column], int | float) for row in rows[1:]) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in cells
    ]


def shown(cell: Cell) -> str:
    """A number or a text for people."""
    return f"{cell:,}".replace(",", " ") if isinstance(cell, int) else str(cell)
