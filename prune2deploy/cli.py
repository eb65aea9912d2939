"""The command line: parse, call the stage of the same name, print."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prune2deploy.cli_looking import looking_app
from prune2deploy.cli_server import server_app
from prune2deploy.console import Commands, RichProgress, guarded, print_json
from prune2deploy.errors import InputError
from prune2deploy.options import (
    Batches,
    Cpu,
    Effort,
    Fastest,
    FastestOrGate,
    Force,
    Gpu,
    Json,
    Keep,
    LatencyMs,
    Lengths,
    MaxLoss,
    MethodName,
    Name,
    PrecisionChoice,
    ProjectFile,
    Recover,
    Repository,
    ResponseCache,
    RuntimeChoice,
    Serve,
    Speedup,
    Threads,
    Triton,
    Wait,
    WithTokenizer,
    budget_of,
    points_of,
    project_of,
    serving_of,
    target_of,
)

if TYPE_CHECKING:
    from prune2deploy.models.checkpoint import PrunedRecord
    from prune2deploy.validation.record import Report

REPOSITORY, FOLDER = Path("model_repository"), Path("sentence_transformer")  # where exports go by default
app = typer.Typer(
    cls=Commands,
    help="Prune a fine-tuned Transformer to a measured latency budget and carry it, validated, into production.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(looking_app)
app.add_typer(server_app)


def _version(asked: bool) -> None:
    if asked:
        from prune2deploy import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """What belongs to no command."""


@app.command()
@guarded
def init(
    model: Annotated[str, typer.Argument(help="A model directory, or a hub id.")],
    data: Annotated[str, typer.Option(help="A file or directory, or a hub data set name[:config].")],
    task: Annotated[
        str | None, typer.Option(help="What the model does, where its class and the data do not say: see docs/tasks.md.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The metric, where the task has several (docs/tasks.md): macro-f1, say.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Multi-label: the probability from which a label is given; 0.5 by default.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Name of the text column.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Name of the second text's column.")] = None,
    choices: Annotated[
        str | None, typer.Option(help="Multiple choice: the column that lists them, or all of theirs: 'ending*', 'A,B,C,D'.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Name of the image column.")] = None,
    label: Annotated[str | None, typer.Option(help="Name of the label column.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Calibrate without labels.")] = False,
    calibration: Annotated[str | None, typer.Option(help="Split to calibrate on, such as train[:50%].")] = None,
    evaluation: Annotated[str | None, typer.Option(help="Split to measure the task metric on.")] = None,
    samples: Annotated[int | None, typer.Option(help="Calibration samples; 2048 by default.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut texts to this many tokens.")] = None,
    client_side: Annotated[
        bool, typer.Option("--client-side", help="Clients send token ids or pixels: no server is to make them.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Go on where labels and model do not seem to fit.")] = False,
    batch: Batches = None,
    seq_len: Lengths = None,
    cpu: Cpu = False,
    gpu: Gpu = False,
    threads: Threads = None,
    runtime: RuntimeChoice = None,
    precision: PrecisionChoice = None,
    as_json: Json = False,
) -> None:
    """Look at a model and its data, and write prune2deploy.toml."""
    from prune2deploy.initialise import init as stage

    roles = {"text": text, "text_pair": text_pair, "choices": choices, "image": image, "label": "" if unlabelled else label}
    settings: dict = {"target": target_of(cpu, gpu, threads, runtime, precision)}
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"--threshold is a probability between 0 and 1, and not {threshold:g}")
    scoring = {"metric": metric, "threshold": threshold}
    if said := {name: value for name, value in scoring.items() if value is not None}:
        settings["scoring"] = said
    if samples is not None:
        settings["calibration"] = {"samples": samples}
    if max_length is not None:
        settings["data"] = {"max_length": max_length}
    if points := points_of(batch, seq_len):
        settings["workload"] = points
    columns = {role: name for role, name in roles.items() if name is not None}
    progress = RichProgress()
    found = stage(model, data, Path.cwd(), task, columns, (calibration, evaluation), settings, client_side, force, progress)
    for note in found.notes:
        progress.note(note)
    project, score = found.project, found.dense
    if as_json:
        print_json({"path": str(found.path), "project": project.model_dump(mode="json", exclude_none=True),
                    "pipeline": str(found.testimony), "dense": asdict(score) if score else None,
                    "notes": found.notes})  # fmt: skip
        return
    progress.note(f"transformers' pipeline: {found.testimony}")
    if score:
        progress.note(f"the dense model: {score}")
    typer.echo(f"{found.path.name} written: {project.task}, calibration on {project.data.calibration!r}, "
               f"evaluation on {project.data.evaluation!r}, columns {project.data.columns}")  # fmt: skip


@app.command()
@guarded
def profile(
    project: ProjectFile = None, cpu: Cpu = False, gpu: Gpu = False, batch: Batches = None, seq_len: Lengths = None,
    threads: Threads = None, runtime: RuntimeChoice = None, precision: PrecisionChoice = None, wait: Wait = None,
    as_json: Json = False,
) -> None:
    """Measure the latency table of the model on this machine."""
    from prune2deploy.models.table import launch_note, padding_note
    from prune2deploy.profiling.stage import profile as stage

    settings = project_of(project, cpu, gpu, batch, seq_len, threads, runtime, precision, wait=wait)
    table, path = stage(settings, RichProgress())
    if as_json:
        print_json({"path": str(path), "dense_ms": table.dense_ms, "fixed_ms": table.fixed_ms,
                    "median_error": table.median_error, "seconds": table.seconds, "halved_speedup": table.halved_speedup,
                    "padding_cost": {str(entry.point): entry.padding_cost for entry in table.points}})  # fmt: skip
        return
    typer.echo(f"dense {table.dense_ms:.2f} ms, with half of every block {table.halved_speedup:.2f}× as fast, without any "
               f"{table.fixed_ms:.2f} ms; predicts unseen plans to {100 * table.median_error:.1f} % (median)")  # fmt: skip
    for note in (padding_note(table.points), launch_note(table)):
        if note:
            typer.echo(note)
    typer.echo(str(path))


@app.command()
@guarded
def prune(
    latency_ms: LatencyMs = None,
    speedup: Speedup = None,
    flops: Annotated[float | None, typer.Option(help="Budget: share of the dense FLOPs to keep.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The pruned model's directory.")] = Path("pruned"),
    method: MethodName = "ours",
    effort: Effort = None,
    max_loss: Fastest = None,
    recover: Recover = None,
    table: Annotated[Path | None, typer.Option(help="A latency table from the target machine.")] = None,
    project: ProjectFile = None,
    cpu: Cpu = False,
    gpu: Gpu = False,
    batch: Batches = None,
    seq_len: Lengths = None,
    threads: Threads = None,
    runtime: RuntimeChoice = None,
    precision: PrecisionChoice = None,
    wait: Wait = None,
    as_json: Json = False,
) -> None:
    """Search what to keep so that the engine meets the budget, recover, and write the pruned model."""
    from prune2deploy.pruning.stage import prune as stage

    settings = project_of(
        project, cpu, gpu, batch, seq_len, threads, runtime, precision, effort=effort, wait=wait, recover=recover
    )
    budget = budget_of(max_loss, latency_ms, speedup, flops)
    record = stage(settings, budget, out, method, table, RichProgress(), max_loss)
    if as_json:
        print_json({"path": str(out), **record.model_dump(mode="json", exclude_none=True)})
        return
    _print_stages(record)
    typer.echo(f"{out} (export it with `prune2deploy export`)")


@app.command()
@guarded
def frontier(
    latency_ms: Annotated[
        list[float] | None, typer.Option("--latency-ms", help="A budget in milliseconds; repeat for several.")
    ] = None,
    speedup: Annotated[
        list[float] | None, typer.Option("--speedup", help="A budget: times as fast as dense; repeat for several.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The directory for models, table and picture.")] = Path("frontier"),
    method: MethodName = "ours",
    effort: Effort = None,
    recover: Recover = None,
    project: ProjectFile = None,
    cpu: Cpu = False,
    gpu: Gpu = False,
    batch: Batches = None,
    seq_len: Lengths = None,
    threads: Threads = None,
    runtime: RuntimeChoice = None,
    precision: PrecisionChoice = None,
    wait: Wait = None,
    as_json: Json = False,
) -> None:
    """Prune to many budgets from one calibration, to choose from with `export --pick`."""
    from prune2deploy.budget import Budget
    from prune2deploy.frontiers.stage import frontier as stage

    settings = project_of(
        project, cpu, gpu, batch, seq_len, threads, runtime, precision, effort=effort, wait=wait, recover=recover
    )
    budgets = [Budget.of(ms, None) for ms in latency_ms or []] + [Budget.of(None, times) for times in speedup or []]
    found = stage(settings, budgets or None, out, method, RichProgress())
    if as_json:
        print_json({"path": str(out), **found.model_dump(mode="json")})
    else:
        typer.echo("\n".join(found.rows()))
        for missed in found.missed:
            typer.echo(f"MISSED  {missed.budget}: {missed.reason}")
        typer.echo(f"{out / 'frontier.svg'} (take a point with `prune2deploy export --pick {found.points[-1].name}`)")
    if found.missed:
        raise typer.Exit(1)


@app.command()
@guarded
def export(
    pruned: Annotated[Path | None, typer.Option(help="The pruned model's directory; ./pruned by default.")] = None,
    pick: Annotated[str | None, typer.Option(help="Instead: a point of the frontier, such as 2x.")] = None,
    frontier: Annotated[Path, typer.Option(help="The directory that `frontier` wrote.")] = Path("frontier"),
    dense: Annotated[bool, typer.Option("--dense", help="Instead: the dense model, to serve beside a pruned one.")] = False,
    layout: Annotated[
        Literal["triton", "sentence-transformers"],
        typer.Option(help="A repository's entry, or, as --out, a folder for sentence-transformers (sentence_transformer)."),
    ] = "triton",
    out: Repository = REPOSITORY,
    name: Name = None,
    latency_ms: LatencyMs = None,
    max_loss: MaxLoss = None,
    force: Force = False,
    project: ProjectFile = None,
    cpu: Cpu = False,
    gpu: Gpu = False,
    batch: Batches = None,
    seq_len: Lengths = None,
    threads: Threads = None,
    runtime: RuntimeChoice = None,
    precision: PrecisionChoice = None,
    wait: Wait = None,
    triton: Triton = None,
    serve: Serve = None,
    with_tokenizer: WithTokenizer = False,
    response_cache: ResponseCache = False,
    keep: Keep = None,
    as_json: Json = False,
) -> None:
    """Shrink to ONNX, package as a Triton model repository entry, and validate."""
    from prune2deploy.budget import Budget
    from prune2deploy.exporting.stage import export as stage
    from prune2deploy.lock import alone_in

    serving = serving_of(serve, with_tokenizer, response_cache, keep)
    settings = project_of(project, cpu, gpu, batch, seq_len, threads, runtime, precision, triton, serving, wait=wait)
    budget = None if latency_ms is None else Budget.of(latency_ms, None)
    if sum([pruned is not None, pick is not None, dense]) > 1:
        raise InputError("give one of --pruned, --pick and --dense")
    source = pruned or Path("pruned")
    if pick is not None:
        from prune2deploy.frontiers.record import picked

        source = picked(frontier, pick)
    with alone_in(settings.state, "prune2deploy export"):  # the dense model is taken from there
        if dense:
            from prune2deploy.exporting.dense import as_if_pruned

            source = as_if_pruned(settings)
        if layout == "sentence-transformers":
            from prune2deploy.exporting.sentence_transformers import export_folder

            out = FOLDER if out == REPOSITORY else out
            report = export_folder(settings, source, out, name, budget, max_loss, force, RichProgress())
            _print_report(report, out, as_json, "folder")
            return
        report = stage(settings, source, out, name, budget, max_loss, force, RichProgress())
    _print_report(report, out, as_json)


@app.command()
@guarded
def run(
    latency_ms: LatencyMs = None, speedup: Speedup = None, out: Repository = Path("model_repository"),
    name: Name = None, method: MethodName = "ours", effort: Effort = None, max_loss: FastestOrGate = None,
    recover: Recover = None, force: Force = False,
    project: ProjectFile = None, cpu: Cpu = False, gpu: Gpu = False, batch: Batches = None, seq_len: Lengths = None,
    threads: Threads = None, runtime: RuntimeChoice = None, precision: PrecisionChoice = None, wait: Wait = None,
    triton: Triton = None, serve: Serve = None, with_tokenizer: WithTokenizer = False,
    response_cache: ResponseCache = False, keep: Keep = None, as_json: Json = False,
) -> None:
    """Profile, prune, export and validate, until the exported artifact measures within the budget."""
    from prune2deploy.closed_loop import run as stage

    serving = serving_of(serve, with_tokenizer, response_cache, keep)
    settings = project_of(
        project, cpu, gpu, batch, seq_len, threads, runtime, precision, triton, serving, effort, wait, recover
    )
    budget = budget_of(max_loss, latency_ms, speedup)
    _print_report(stage(settings, budget, out, name, method, max_loss, force, RichProgress()), out, as_json)


@app.command()
@guarded
def validate(
    package: Annotated[Path, typer.Argument(help="An entry of a model repository, made by `export` or `run`.")],
    project: ProjectFile = None,
    wait: Wait = None,
    as_json: Json = False,
) -> None:
    """Check a package again, on this machine."""
    from prune2deploy.config import PROJECT_FILE, load_project
    from prune2deploy.exporting.recheck import validate as stage

    settings = load_project(project) if project or Path(PROJECT_FILE).is_file() else None
    result = stage(package, settings, RichProgress(), wait)
    if as_json:
        print_json(result.model_dump(mode="json", exclude_none=True))
    else:
        for check in result.checks:
            typer.echo(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}")
        for reason in result.not_checked:
            typer.echo(f"not checked  {reason}")
    if not result.passed:
        raise typer.Exit(1)


def _print_stages(record: "PrunedRecord") -> None:
    from prune2deploy.tasks.paired import Loss

    stages = record.provenance.stages
    for stage in stages:
        error = stage.lost_standard_error
        lost = "" if error is None else f", {Loss(stages[0].score - stage.score, error, stage.n)}"
        typer.echo(f"{stage.stage:<14} {stage.score:6.2f} ± {stage.standard_error:.2f} {stage.metric}{lost}, reconstruction "
                   f"error {stage.reconstruction_error:.3f}{'' if stage.kept else ' (not kept)'}")  # fmt: skip


def _print_report(report: "Report", out: Path, as_json: bool, kind: str = "entry") -> None:
    from prune2deploy.repository.versions import versions_of

    entry = out if kind == "folder" else out / report.name
    version = 1 if kind == "folder" else versions_of(entry)[-1]
    directory = entry if kind == "folder" else entry / str(version)
    if as_json:
        print_json({"path": str(entry), "version": version, **report.model_dump(mode="json", exclude_none=True)})
    else:
        typer.echo(report.headline)
        for check in report.checks:
            typer.echo(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}")
        for warning in report.warnings:
            typer.echo(f"warning {warning}")
        typer.echo(f"package {entry}, version {version}\nreport  {directory / 'report.html'}")
    if report.verdict == "failed":
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the `prune2deploy` command."""
    app()
