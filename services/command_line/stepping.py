"""``cairn replay --step``: forward and back through what happened, a decision at a time.

Commands are lines, so that it works in a terminal and in a pipe alike; the end of the input is the end.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, TextIO

from services.command_line import console
from services.command_line.failures import INVALID, Failure
from services.command_line.narration import sentence
from services.command_line.past import BOARD, Past

SHOWN_LINES = 40
HELP = "n next (or Enter), p previous, g SEQUENCE go there, d diff of the workspace, q quit"

# Parts of events that are shown whole, below the sentence.
_TEXTS = {"ModelResponded": "text", "RunStarted": "prompt", "AgentReminded": "text", "RunSucceeded": "summary"}
_CONTENTS = {"ToolCallRequested": "arguments", "ToolCallCompleted": "content", "ToolCallFailed": "content"}


class Stepper:
    """``keys`` gives the commands."""

    def __init__(self, past: Past, keys: TextIO) -> None:
        self._past = past
        self._keys = keys
        self._steps = list(past.steps())
        self._position = 0

    def run(self, at: str) -> None:
        """Begin at ``at``, at the first step where that is empty."""
        if at:
            self._go(self._past.at(at)["sequence"])
        self._show()
        console.note(HELP)
        while (line := self._next_line()) is not None:
            command, _, argument = line.strip().partition(" ")
            match command:
                case "q":
                    return
                case "" | "n":
                    self._move(1)
                case "p":
                    self._move(-1)
                case "g" if argument.strip().isdigit():
                    if self._go(int(argument)):
                        self._show()
                case "d":
                    self._show_diff()
                case _:
                    console.note(f"{line.strip()!r} is no command: {HELP}", style="yellow")

    def _next_line(self) -> str | None:
        if self._keys.isatty():
            console.out().print("> ", end="")
        line = self._keys.readline()
        return line or None

    def _move(self, by: int) -> None:
        position = self._position + by
        if not 0 <= position < len(self._steps):
            console.note("This is the last step." if by > 0 else "This is the first step.", style="yellow")
            return
        self._position = position
        self._show()

    def _go(self, sequence: int) -> bool:
        """To the last step up to ``sequence``."""
        index = bisect_right(self._steps, sequence, key=lambda step: int(step["sequence"])) - 1
        if index < 0:
            console.note(f"It begins with {self._steps[0]['sequence']}: there is nothing before.", style="yellow")
            return False
        self._position = index
        return True

    @property
    def _step(self) -> dict[str, Any]:
        return self._steps[self._position]

    def _show(self) -> None:
        step = self._step
        then = self._past.at(str(step["sequence"]))
        what = f"{len(then['tasks'])} tasks" if self._past.kind == BOARD else then["status"]
        console.say(
            f"\nstep {self._position + 1} of {len(self._steps)} · sequence {step['sequence']} · "
            f"{console.when(step['time'])} · {step['entity_id']} · {self._past.kind} {what}".rstrip(),
            style="bold",
        )
        for event in step["events"]:
            text, style = sentence(event)
            console.say(f"  {text}", style=style or None)
            self._show_whole(event)
        if self._past.kind == BOARD:
            for task in then["tasks"]:
                console.say(f"    {task['id']}  {task['status']}  {task['title']}", style="dim")

    def _show_whole(self, event: dict[str, Any]) -> None:
        text = str(event.get(_TEXTS.get(event["type"], ""), "") or "")
        content = event.get(_CONTENTS.get(event["type"], ""))
        if content:
            text = self._past.content(content["digest"]) if content["kind"] == "stored" else content["text"]
        lines = text.splitlines()
        if len(lines) <= 1 and len(text) < 100:
            return  # The sentence has said it.
        for line in lines[:SHOWN_LINES]:
            console.say(f"    │ {line}", style="dim")
        if len(lines) > SHOWN_LINES:
            console.say(f"    │ … {len(lines) - SHOWN_LINES} more lines", style="dim")

    def _show_diff(self) -> None:
        run = "" if self._past.kind == "run" else self._run_of_step()
        if self._past.kind != "run" and not run:
            console.note("No run's workspace belongs to this step.", style="yellow")
            return
        try:
            diff = self._past.diff(str(self._step["sequence"]), run=run)
        except Failure as failure:
            if failure.exit_code == INVALID:
                raise
            console.show_failure(failure)
            return
        if not diff:
            console.note("This step changed nothing in the workspace.")
        for line in diff.splitlines():
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            console.say(line, style=style)

    def _run_of_step(self) -> str:
        if self._step["entity"] == "run":
            return str(self._step["entity_id"])
        return next((str(event["run_id"]) for event in self._step["events"] if event.get("run_id")), "")
