"""``cairn export``, ``import`` and ``imports``: a run as a file that carries all that is needed to look at it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from services.command_line import console
from services.command_line.failures import FAILED, INVALID, NOT_FOUND, Failure
from services.command_line.options import AsJson, gateway

CHUNK_BYTES = 1024**2


def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="RUN.cairn.zip here, where it is left out.")
    ] = None,
) -> None:
    """Write a run with its events, contents and checkpoints into a file."""
    path = output or Path(f"{run}.cairn.zip")
    if path.exists():
        message = f"{path} exists already."
        raise Failure(message, hint="Name another file with --output.", exit_code=INVALID)
    with gateway(context) as api:
        data = api.raw(f"/runs/{run}/bundle")
    try:
        with path.open("xb") as file:
            file.write(data)
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror})."
        raise Failure(message, exit_code=FAILED) from error
    console.say(f"Wrote {path} ({len(data):,} bytes). Look at it anywhere: cairn import {path}", style="green")
    with zipfile.ZipFile(path) as archive:
        manifest = msgspec.json.decode(archive.read("manifest.json"))
    for missing in manifest.get("missing", ()):
        console.note(f"Not in it: {missing}", style="yellow")


def import_bundle(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that `cairn export` wrote.")],
    name: Annotated[str, typer.Option(help="To know it by; the run's id where it is left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take in an exported run, to look at it.

    It gets no part in what happens here: nothing of it is ever started.
    """
    if not file.is_file():
        message = f"There is no file {file}."
        raise Failure(message, exit_code=NOT_FOUND)
    with gateway(context) as api:
        answer = api.upload("/imports", _chunks(file), name=name)
    if as_json:
        console.show_json(answer)
        return
    id = f"imported/{answer['name']}"
    console.say(f"Imported as {id}: {answer['decisions']} decisions of {answer['tenant']}.", style="green")
    for missing in answer["missing"]:
        console.note(f"Not in it: {missing}", style="yellow")
    console.note(f"Look at it: cairn replay {id} --step, cairn events --run {id}, cairn replay {id}/{answer['task']}")


def imports(context: typer.Context, as_json: AsJson = False) -> None:
    """The runs that were imported here."""
    with gateway(context) as api:
        rows = api.items("/imports")
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["import", "run", "decisions", "from", "exported"],
        [
            (f"imported/{row['name']}", row["run"], row["decisions"], row["tenant"], console.when(row["exported_at"]))
            for row in rows
        ],
        empty="Nothing is imported: cairn import FILE",
    )


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror})."
        raise Failure(message, exit_code=INVALID) from error
