"""The options that commands share, and what they make of the project file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prune2deploy.config import LONGEST_WAIT, BackendName, Project, RuntimeName, TargetPrecision, load_project
from prune2deploy.errors import InputError

if TYPE_CHECKING:
    from prune2deploy.budget import Budget

ProjectFile = Annotated[
    Path | None, typer.Option("--project", help="The project file; prune2deploy.toml here by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Target the CPU.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Target the NVIDIA GPU.")]
Batches = Annotated[
    list[int] | None, typer.Option("--batch", help="Batch size of a workload point; repeat for several.")
]
Lengths = Annotated[
    list[int] | None,
    typer.Option("--seq-len", help="Sequence length of a workload point; one for each --batch, or one for all."),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; one a physical core by default.")]
RuntimeChoice = Annotated[RuntimeName | None, typer.Option("--runtime", help="What the model will run in.")]
PrecisionChoice = Annotated[
    TargetPrecision | None,
    typer.Option("--precision", help="What it computes in; auto: of each block, what the search chooses.")
]
Triton = Annotated[str | None, typer.Option("--triton", help="Check that this release of the server loads it: 26.07.")]
Serve = Annotated[
    BackendName | None, typer.Option("--serve", help="The server's backend; python runs the model without one.")
]
WithTokenizer = Annotated[
    bool, typer.Option("--with-tokenizer", help="Text or image in, label out: adds the steps around the model.")
]
ResponseCache = Annotated[bool, typer.Option("--response-cache", help="Let the server answer repeats from its cache.")]
Keep = Annotated[int | None, typer.Option("--keep", help="Old versions to keep behind the new one; 2 by default.")]
LatencyMs = Annotated[float | None, typer.Option("--latency-ms", help="Budget: milliseconds over the workload.")]
Speedup = Annotated[float | None, typer.Option("--speedup", help="Budget: how many times as fast as dense.")]
MethodName = Annotated[str, typer.Option("--method", help="ours, fisher, kwon, ziplm, k-prune, optin, magnitude or hawq.")]
Effort = Annotated[
    int | None, typer.Option("--effort", help="Profiles of widths to try beyond the knapsack's own, such as 60; ours only.")
]
MaxLoss = Annotated[
    float | None, typer.Option("--max-loss", help="Refuse to export what loses more points of the task metric.")
]
Fastest = Annotated[
    float | None, typer.Option("--max-loss", help="Without a budget: the fastest model that loses no more points.")
]
FastestOrGate = Annotated[
    float | None,
    typer.Option("--max-loss", help="Points of the task metric that may be lost; alone: the fastest model within it."),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", min=0, max=LONGEST_WAIT, help="Minutes that a disturbed measurement waits for quiet; 0 by default."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Export even if a check fails; the report says so first.")]
Repository = Annotated[Path, typer.Option("--out", help="The model repository to export into.")]
Name = Annotated[str | None, typer.Option("--name", help="The model's name in the repository.")]


Recover = Annotated[
    Literal["distil"] | None,
    typer.Option("--recover", help="Train at the end, too: distil takes minutes, needs no labels, and is off by default."),
]


def budget_of(
    max_loss: float | None, latency_ms: float | None, speedup: float | None, flops: float | None = None
) -> "Budget | None":
    """The one budget; None where there is a loss in its place."""
    from prune2deploy.budget import Budget

    if max_loss is not None and (latency_ms, speedup, flops) == (None, None, None):
        return None
    return Budget.of(latency_ms, speedup, flops)


def target_of(
    cpu: bool, gpu: bool, threads: int | None, runtime: RuntimeName | None, precision: TargetPrecision | None,
    triton: str | None = None,
) -> dict:
    """What the command line says of the target; what is not said is left to the project file."""
    if cpu and gpu:
        raise InputError("give one of --cpu and --gpu")
    device = "gpu" if gpu else "cpu" if cpu else None
    said = {"device": device, "threads": threads, "runtime": runtime, "precision": precision, "triton": triton}
    return {name: value for name, value in said.items() if value is not None}


def serving_of(serve: BackendName | None, with_tokenizer: bool, response_cache: bool, keep: int | None) -> dict:
    """What the command line says of serving; a flag that is not given leaves it to the project file."""
    said = {"backend": serve, "with_tokenizer": with_tokenizer or None, "response_cache": response_cache or None,
            "keep": keep}  # fmt: skip
    return {name: value for name, value in said.items() if value is not None}


def points_of(batch: list[int] | None, seq_len: list[int] | None) -> list[dict]:
    """Workload points; one value of either counts for all of the other."""
    if not batch and not seq_len:
        return []
    batches: list[int] = batch or [1]
    lengths: list[int | None] = [*seq_len] if seq_len else [None]
    count = max(len(batches), len(lengths))
    if {len(batches), len(lengths)} - {1, count}:
        raise InputError("give --batch and --seq-len equally often, or one of them once")
    return [
        {"batch": batches[index % len(batches)], "seq_len": lengths[index % len(lengths)]} for index in range(count)
    ]


def project_of(
    path: Path | None, cpu: bool, gpu: bool, batch: list[int] | None, seq_len: list[int] | None, threads: int | None,
    runtime: RuntimeName | None, precision: TargetPrecision | None, triton: str | None = None, serving: dict | None = None,
    effort: int | None = None, wait: float | None = None, recover: str | None = None,
) -> Project:
    """The project file, with what the command line says instead of it."""
    from prune2deploy.config import project_from

    project = load_project(path)
    values = project.model_dump()
    values["target"].update(target_of(cpu, gpu, threads, runtime, precision, triton))
    values["serving"].update(serving or {})
    if effort is not None:
        values["calibration"]["effort"] = effort
    if recover is not None:
        values["recovery"]["train"] = recover
    if wait is not None:
        values["measuring"]["wait_minutes"] = wait
    if points := points_of(batch, seq_len):
        fixed = [point for point in values["workload"] if not seq_len and point["seq_len"]]
        values["workload"] = [
            {**point, "seq_len": point["seq_len"] or (fixed[0]["seq_len"] if fixed else None)} for point in points
        ]
    return project_from(values, project.root, "the command line")
