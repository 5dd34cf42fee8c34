"""``cairn fork``: a new task that goes on from any step of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from services.command_line import console
from services.command_line.client import is_pending
from services.command_line.failures import INVALID, Failure
from services.command_line.options import AsJson, gateway
from services.command_line.past import IMPORTED
from services.command_line.tasks import read_text


def fork(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run to go on from.")],
    at: Annotated[int, typer.Option(min=1, help="The sequence of the log up to which it is taken over.")],
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="Said to the agent then: text, @FILE, or - for standard input.")
    ] = "",
    agent: Annotated[str, typer.Option(help="Another agent than the task had.")] = "",
    as_json: AsJson = False,
) -> None:
    """A new task that goes on from a step of a run.

    Its agent begins with the run's conversation and workspace up to there; `cairn replay RUN --step` finds the step.
    A program takes over no conversation: it starts anew, with the whole task, in the workspace of that step.
    """
    if run.startswith(IMPORTED):
        message = f"{run} can only be looked at: its task and its repository are not here."
        raise Failure(message, exit_code=INVALID)
    with gateway(context) as api:
        answer = api.post(f"/runs/{run}/fork", {"at": at, "prompt": read_text(prompt), "agent": agent})
    if as_json:
        console.show_json(answer)
    elif is_pending(answer):
        console.note(answer["detail"], style="yellow")
    else:
        console.say(f"Submitted {answer['id']}: it goes on from {run} at {at}.", style="green")
        if answer.get("detail"):
            console.note(answer["detail"], style="yellow")
        console.note(f"Watch it: cairn task watch {answer['id']}")
