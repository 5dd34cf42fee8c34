"""``cairn logs``, ``events`` and ``replay``: what was printed, what happened, how it was at any time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.client import Gateway, ServerEvent
from services.command_line.failures import INVALID, NOT_FOUND, Failure
from services.command_line.narration import sentence
from services.command_line.options import AsJson, gateway
from services.command_line.past import located
from services.command_line.watching import INTERRUPTED, follow

PAGE = 500


def logs(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="A run, or a task: then its latest run.")],
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a run's processes printed."""
    with gateway(context) as api:
        run = run_of(api, id)
        if run != id:
            console.note(f"{run}:")
        try:
            for event in follow(api, f"/runs/{run}/output/stream", follow=None if follow_on else "false"):
                _print_chunk(event, as_json=as_json)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _print_chunk(event: ServerEvent, *, as_json: bool) -> None:
    if event.name == "truncated":
        console.note(f"[{event.data['reason']}]", style="yellow")
    elif event.name == "message" and as_json:
        console.show_json_line(event.data)
    elif event.name == "message":
        text = event.data["text"]
        sys.stdout.write(console.terminal_text(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()


def run_of(api: Gateway, id: str) -> str:
    """``id`` itself where it is a run, the latest run where it is a task."""
    try:
        runs = api.items(f"/tasks/{id}/runs")
    except Failure as failure:
        if failure.exit_code == NOT_FOUND:
            return id
        raise
    if not runs:
        message = f"Task {id} has had no run yet."
        raise Failure(message, hint=f"Why: cairn task show {id}", exit_code=NOT_FOUND)
    return str(max(runs, key=lambda run: run["requested_at"])["id"])


def events(
    context: typer.Context,
    task: Annotated[str, typer.Option(help="Of a task, its runs, environments and pull request.")] = "",
    run: Annotated[str, typer.Option(help="Of a run; of an imported one: imported/NAME.")] = "",
    environment: Annotated[str, typer.Option(help="Of an environment.")] = "",
    experiment: Annotated[str, typer.Option(help="Of an experiment.")] = "",
    after: Annotated[int, typer.Option(min=0, help="Only what came after this sequence.")] = 0,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    as_json: AsJson = False,
) -> None:
    """What happened, in the order of the log.

    With --json one decision a line.
    """
    if sum(map(bool, (task, run, environment, experiment))) > 1:
        message = "--task, --run, --environment and --experiment each select by themselves: use one."
        raise Failure(message, exit_code=INVALID)
    selection = {"task": task, "run": run, "environment": environment}
    if experiment:
        selection = {"entity": "experiment", "id": experiment}
    with gateway(context) as api:
        within = located(api, task or run or environment)
        if within.prefix:
            if follow_on:
                message = f"{within.prefix.strip('/')} does not change: leave out --follow."
                raise Failure(message, exit_code=INVALID)
            selection = {name: within.id if given else "" for name, given in selection.items()}
        elif task:
            api.get(f"/tasks/{task}")
        elif run:
            api.get(f"/runs/{run}")
        elif environment:
            api.get(f"/environments/{environment}")
        elif experiment:
            api.get(f"/experiments/{experiment}")
        pages = _pages(api, after, selection, within.prefix)
        source = _followed(api, after, selection) if follow_on else pages
        try:
            for decision in source:
                if as_json:
                    console.show_json_line(decision)
                else:
                    _tell(decision)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _pages(api: Gateway, after: int | None, selection: dict[str, str], prefix: str) -> Iterator[Any]:
    while after is not None:
        page = api.get(f"{prefix}/events", after=after, limit=PAGE, **selection)
        yield from page["items"]
        after = page["next"]


def _followed(api: Gateway, after: int, selection: dict[str, str]) -> Iterator[Any]:
    for event in follow(api, "/events/stream", str(after), **selection):
        if event.name == "truncated":
            console.note(f"[{event.data['reason']}]", style="yellow")
        else:
            yield event.data


def _tell(decision: dict[str, Any]) -> None:
    where = f"{decision['sequence']:>7}  {console.when(decision['time'])}  {decision['entity_id']}"
    for event in decision["events"]:
        text, style = sentence(event)
        console.say(f"{where}  {event['type']}  {text}", style=style or None)
