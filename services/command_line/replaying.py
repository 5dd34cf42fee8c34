"""``cairn replay``: a run, a task or the whole board as it was at any sequence or time. Nothing happens by it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.failures import INVALID, Failure
from services.command_line.narration import sentence
from services.command_line.options import AsJson, gateway
from services.command_line.past import BOARD, Past
from services.command_line.stepping import Stepper
from services.command_line.unpacking import check_target, unpack

SHOWN_EVENTS = 20


def replay(
    context: typer.Context,
    id: Annotated[
        str, typer.Argument(metavar="ID", help="A run, a task, or `board`; of an imported bundle: imported/NAME.")
    ],
    at: Annotated[
        str, typer.Option(help="A sequence of the log, or a time such as 2026-05-01T12:00:00Z; else now.")
    ] = "",
    step: Annotated[bool, typer.Option("--step", help="Step through it: n, p, g SEQUENCE, d (diff), q.")] = False,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="What the step at --at changed in the workspace; the whole run without."),
    ] = False,
    checkout: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the run's workspace as it was into this empty folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A run, a task or the whole board as it was at any time."""
    if sum((step, diff, checkout is not None)) > 1:
        message = "--step, --diff and --checkout each do one thing: use one."
        raise Failure(message, exit_code=INVALID)
    if checkout is not None:
        check_target(checkout)
    with gateway(context) as api:
        past = Past(api, id)
        if step:
            Stepper(past, sys.stdin).run(at)
        elif diff:
            sys.stdout.write(past.diff(at, since=None if at else 0))
        elif checkout is not None:
            unpack(past.workspace(at), checkout)
            console.say(f"Wrote the workspace of {past.id} as it was to {checkout}.", style="green")
        elif as_json:
            console.show_json(past.at(at))
        else:
            _show(past, at)


def _show(past: Past, at: str) -> None:
    then = past.at(at)
    show_state(past.kind, then)
    if past.kind == BOARD:
        return
    history = [
        (decision["sequence"], event)
        for decision in past.steps()
        if decision["sequence"] <= then["sequence"]
        for event in decision["events"]
    ]
    hidden = len(history) - SHOWN_EVENTS
    console.say(f"\nHow it came there{f' ({hidden} events before are left out)' if hidden > 0 else ''}:", style="bold")
    for sequence, event in history[-SHOWN_EVENTS:]:
        text, style = sentence(event)
        console.say(f"{sequence:>7}  {text}", style=style or None)


def show_state(kind: str, then: dict[str, Any]) -> None:
    """What was, in tables."""
    when = f"sequence {then['sequence']}, {console.when(then['time'])}"
    if kind == BOARD:
        console.fields({"board": "", "as of": when, **then["by_status"]})
        rows = [
            (task["id"], task["status"], console.shortened(task["title"], 60), _stages(task)) for task in then["tasks"]
        ]
        console.table(["task", "status", "title", "stages"], rows, empty="There was no task.")
        return
    state = then["state"]
    later = then["later_decisions"]
    console.fields(
        {
            then["entity"]: then["id"],
            "as of": when,
            "status": then["status"],
            "later": f"{later} decisions followed" if later else "nothing followed",
        }
    )
    if kind == "run":
        console.fields(
            {
                "last step": state.get("last"),
                "epoch": state.get("epoch"),
                "host": state.get("host"),
                "steps": state.get("steps"),
                "tokens": state.get("input_tokens", 0) + state.get("output_tokens", 0),
                "cost $": state.get("cost_usd"),
            }
        )
        return
    console.table(
        ["stage", "position", "attempt", "rework", "findings"],
        [
            (name, _position(stage), stage.get("attempt"), stage.get("rework"), _line(stage.get("findings")))
            for name, stage in state.get("stages", {}).items()
        ],
        empty="",
    )


def _stages(task: dict[str, Any]) -> str:
    return ", ".join(f"{name} {position}" for name, position in task["stages"].items())


def _position(stage: dict[str, Any]) -> str:
    return str(stage.get("position", {}).get("type", "Waiting")).lower()


def _line(text: Any) -> str:
    return console.shortened(str(text or ""), 80)
