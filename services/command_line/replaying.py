"""``cairn replay``: a run or a task as it was at any sequence or time. Read-only; nothing happens by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.client import Gateway
from services.command_line.failures import NOT_FOUND, Failure
from services.command_line.narration import sentence
from services.command_line.options import AsJson, gateway

PAGE = 500
SHOWN_EVENTS = 20


def replay(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="A run or a task.")],
    at: Annotated[
        str, typer.Option(help="A sequence of the log, or a time such as 2026-05-01T12:00:00Z; else now.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """A run or task as it was at any time."""
    with gateway(context) as api:
        past = _past(api, id, at)
        if as_json:
            console.show_json(past)
            return
        _show(past)
        history = list(_until(api, past["entity"], id, past["sequence"]))
    hidden = len(history) - SHOWN_EVENTS
    console.say(f"\nHow it came there{f' ({hidden} events before are left out)' if hidden > 0 else ''}:", style="bold")
    for sequence, event in history[-SHOWN_EVENTS:]:
        text, style = sentence(event)
        console.say(f"{sequence:>7}  {text}", style=style or None)


def _past(api: Gateway, id: str, at: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = api.get(f"/replay/task/{id}", at=at)
    except Failure as failure:
        if failure.exit_code != NOT_FOUND:
            raise
        try:
            found = api.get(f"/replay/run/{id}", at=at)
        except Failure as other:
            # The first answer is the better one where it says that the task did not exist yet.
            raise (failure if "yet" in str(failure) else other) from other
    return found


def _show(past: dict[str, Any]) -> None:
    state = past["state"]
    console.fields(
        {
            past["entity"]: past["id"],
            "as of": f"sequence {past['sequence']}, {console.when(past['time'])}",
            "status": past["status"],
            "later": f"{past['later_decisions']} decisions followed" if past["later_decisions"] else "nothing followed",
        }
    )
    if past["entity"] == "run":
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


def _position(stage: dict[str, Any]) -> str:
    return str(stage.get("position", {}).get("type", "Waiting")).lower()


def _line(text: Any) -> str:
    return console.shortened(str(text or ""), 80)


def _until(api: Gateway, entity: str, id: str, sequence: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """What happened to the entity up to ``sequence``, for a run also in its environment."""
    after: int | None = 0
    while after is not None:
        page = api.get("/events", **{entity: id}, after=after, limit=PAGE)
        for decision in page["items"]:
            if decision["sequence"] > sequence:
                return
            for event in decision["events"]:
                yield decision["sequence"], event
        after = page["next"]
