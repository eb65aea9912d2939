"""The commands that look and tell, and change nothing."""

from pathlib import Path
from typing import Annotated

import typer

from prune2deploy.console import RichProgress, guarded, print_json
from prune2deploy.options import Batches, Cpu, Gpu, Json, Lengths, ProjectFile, Threads, Wait, project_of

looking_app = typer.Typer()


@looking_app.command()
@guarded
def compare(
    pruned: Annotated[
        list[Path] | None, typer.Option(help="A pruned model's directory; repeat for several; ./pruned if it is there.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where .json and .md are written.")] = Path("comparison"),
    project: ProjectFile = None,
    cpu: Cpu = False,
    gpu: Gpu = False,
    batch: Batches = None,
    seq_len: Lengths = None,
    threads: Threads = None,
    wait: Wait = None,
    as_json: Json = False,
) -> None:
    """Measure what people use instead (dynamic and static int8, OpenVINO, fp16) beside pruned models, in one run."""
    from prune2deploy.comparison.stage import compare as stage

    settings = project_of(project, cpu, gpu, batch, seq_len, threads, None, None, wait=wait)
    usual = [Path("pruned")] if Path("pruned").is_dir() else []
    found = stage(settings, pruned or usual, out, RichProgress())
    if as_json:
        print_json({"path": f"{out}.json", **found.model_dump(mode="json", exclude_none=True)})
        return
    typer.echo("\n".join(found.table()))
    typer.echo(f"{found.metric}, n = {found.n}; {found.device.name}, {found.threads} threads; {out}.md, {out}.json")


@looking_app.command()
@guarded
def inspect(
    what: Annotated[str, typer.Argument(help="A model (directory or hub id), a pruned model, a table, or a package.")],
    as_json: Json = False,
) -> None:
    """Show what a model can be pruned in, or what is in a pruned model, a latency table or a package."""
    from prune2deploy.inspection import inspect as stage

    found = stage(what, Path.cwd())
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo("\n".join(found.lines()))


@looking_app.command()
@guarded
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, and what to install for the rest."""
    from prune2deploy.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings.model_dump(mode="json"))
        return
    typer.echo("\n".join(findings.lines()))
