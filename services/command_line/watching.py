"""Following what happens: streams that go on where they broke off, and a task told as it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer

from services.command_line import console
from services.command_line.client import Disconnected, Gateway, ServerEvent
from services.command_line.failures import UNREACHABLE, Failure
from services.command_line.narration import TASK_ENDS, sentence

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 2.0
GIVE_UP_SECONDS = 60.0
INTERRUPTED = 130


class End(NamedTuple):
    """How a task ended, and the sequence of the decision that ended it."""

    completed: bool
    sequence: int


def follow(api: Gateway, path: str, last_id: str = "", **parameters: Any) -> Iterator[ServerEvent]:
    """Events of a stream, over disconnections: a new connection begins after the last event that was seen.

    Ends where the server says ``event: end``. Raises ``Failure`` where it cannot be reached for a minute.
    """
    wait, lost_at = FIRST_WAIT_SECONDS, 0.0
    while True:
        try:
            for event in api.stream(path, last_id, **parameters):
                wait, lost_at = FIRST_WAIT_SECONDS, 0.0
                last_id = event.id or last_id
                if event.name == "end":
                    return
                if event.name in ("message", "truncated"):
                    yield event
        except Disconnected as error:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > GIVE_UP_SECONDS:
                raise Failure(str(error), exit_code=UNREACHABLE) from error
        time.sleep(wait)
        wait = min(wait * 2, LONGEST_WAIT_SECONDS)


def watch_task(api: Gateway, id: str, *, quiet: bool = False) -> End:
    """Tell what happens to a task until it has ended. Ctrl-C only stops watching."""
    try:
        for event in follow(api, "/events/stream", last_id="0", task=id):
            for entry in event.data.get("events", ()):
                if not quiet:
                    text, style = sentence(entry)
                    console.say(f"{console.when(event.data['time'])[11:]}  {text}", style=style or None)
                    if entry["type"] == "QuestionAsked":
                        console.note(f'          cairn task answer {id} "…" --call {entry["call_id"]}')
                if entry["type"] in TASK_ENDS and event.data["entity_id"] == id:
                    return End(TASK_ENDS[entry["type"]], event.data["sequence"])
    except KeyboardInterrupt:
        console.note(f"Stopped watching; the task goes on: cairn task watch {id}")
        raise typer.Exit(INTERRUPTED) from None
    message = f"The gateway ended the stream of {id}."
    raise Failure(message, exit_code=UNREACHABLE)
