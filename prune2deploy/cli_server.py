"""The commands for what is exported: the repository, and a server that serves it."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from prune2deploy.console import RichProgress, guarded, print_json
from prune2deploy.errors import InputError
from prune2deploy.options import Json

server_app = typer.Typer()
repository_app = typer.Typer(help="Look after a model repository.", no_args_is_help=True)
server_app.add_typer(repository_app, name="repository")
SHOWN = 32  # numbers of an answer, for people
Url = Annotated[str, typer.Argument(help="localhost:8000, http://host:8000 or grpc://host:8001.")]


@repository_app.command("check")
@guarded
def repository_check(
    repository: Annotated[Path, typer.Argument(help="The model repository.")] = Path("model_repository"),
    as_json: Json = False,
) -> None:
    """Check every entry: files, hashes, versions, configurations, and how ensembles join them."""
    from prune2deploy.repository.check import check_repository

    entries = check_repository(repository)
    if as_json:
        print_json({"path": str(repository), "entries": [entry.model_dump(mode="json") for entry in entries]})
    else:
        for entry in entries:
            versions = ", ".join(map(str, entry.versions)) or "none"
            typer.echo(f"{'FAILED' if entry.problems else 'passed'}  {entry.name} ({entry.kind}), versions: {versions}")
            for problem in entry.problems:
                typer.echo(f"        {problem}")
            if entry.unchecked:
                typer.echo(f"        not checked: {len(entry.unchecked)} compiled python files that a server left")
    if any(entry.problems for entry in entries):
        raise typer.Exit(1)


@repository_app.command("rollback")
@guarded
def repository_rollback(
    entry: Annotated[Path, typer.Argument(help="The entry, such as model_repository/topics.")], as_json: Json = False
) -> None:
    """Serve again what was served before, as a new version; once more goes one version further back."""
    from prune2deploy.repository.versions import rollback

    source, number = rollback(entry)
    if as_json:
        print_json({"path": str(entry), "restored": source, "version": number})
        return
    typer.echo(f"{entry}: version {source} is served again, as version {number}")


@server_app.command()
@guarded
def client(
    url: Url,
    model: Annotated[str, typer.Argument(help="An ensemble that --with-tokenizer made, such as topics_text.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; without any, one a line from stdin.")] = None,
    pair: Annotated[
        list[str] | None, typer.Option("--pair", help="The second text of a pair; as often as there are texts.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option("--image", help="An image file; repeat for several.")] = None,
    as_json: Json = False,
) -> None:
    """Send texts or images to a running server, and print the answers: labels, entities, vectors, spans, scores."""
    from prune2deploy.serving.client import LABEL, Client

    if image and (texts or pair):
        raise InputError("give texts or images, not both")
    with Client(url) as connection:
        if image:
            sent, found = [str(path) for path in image], connection.classify_images(model, image)
        else:
            sent = texts or ([] if sys.stdin.isatty() else [line.rstrip("\n") for line in sys.stdin])
            if not sent:
                raise InputError("nothing to send: give texts, or --image, or texts on stdin, one a line")
            if LABEL not in {tensor["name"] for tensor in connection.config(model)["output"]}:
                answers = connection.ask(model, sent, pair)
                _print_answers(model, sent, answers, as_json)
                return
            found = connection.classify(model, sent, pair)
    if as_json:
        rows = zip(sent, found, strict=True)
        predictions = [{"input": given, **dataclasses.asdict(each)} for given, each in rows]
        print_json({"model": model, "predictions": predictions})
        return
    for given, each in zip(sent, found, strict=True):
        typer.echo(f"{each.label}\t{each.score:.3f}\t{given}")


def _print_answers(model: str, sent: list[str], answers: list[dict], as_json: bool) -> None:
    if as_json:
        rows = [{"input": given, **each} for given, each in zip(sent, answers, strict=True)]
        print_json({"model": model, "answers": rows})
        return
    for given, each in zip(sent, answers, strict=True):
        shown = {name: f"{len(value)} numbers" if isinstance(value, list) and len(value) > SHOWN else value
                 for name, value in each.items()}  # fmt: skip
        typer.echo("\t".join([*(f"{name} {value}" for name, value in shown.items()), given]))


@server_app.command()
@guarded
def bench(
    url: Url,
    model: Annotated[str, typer.Argument(help="The model or the ensemble; its package must lie in the repository.")],
    repository: Annotated[
        Path, typer.Option(help="The model repository that the server serves, or a copy of it.")
    ] = Path("model_repository"),
    concurrency: Annotated[
        int | None, typer.Option(help="Clients that send the next request when the last is answered; 8 by default.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Instead: requests a second, that arrive whatever the server does (Poisson).")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long.")] = 10.0,
    out: Annotated[Path, typer.Option(help="The result's file; a picture is put beside it.")] = Path("bench.json"),
    as_json: Json = False,
) -> None:
    """Measure a running server under load with real samples, and check each of its answers."""
    from prune2deploy.files import replacing, write_record
    from prune2deploy.serving.bench import bench as stage
    from prune2deploy.serving.picture import draw

    if out.suffix != ".json":
        raise InputError(f"--out {out}: give a name that ends in .json")
    result, spans = stage(url, model, repository, concurrency, rate, seconds, RichProgress())
    write_record(out, result)
    if spans:
        with replacing(out.with_suffix(".svg")) as partial:
            draw(result, spans, partial)
    if as_json:
        print_json({"path": str(out), **result.model_dump(mode="json")})
    else:
        typer.echo("\n".join([*result.lines(), str(out)]))
    if not result.passed:
        raise typer.Exit(1)
