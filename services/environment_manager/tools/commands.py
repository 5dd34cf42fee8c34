"""How the process of a call is started: its command line, its variables and its limit of time.

A declared tool gets its arguments as a file, whose name is in ``$CAIRN_ARGUMENTS_FILE``, and on standard input. The
file lies beside the workspace and not in it, so that no checkpoint holds it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from events.agents import CommandTool
from events.environment import ExecuteTool
from events.tools import Program, Shell

# Executes what follows it with the arguments on standard input.
WITH_INPUT = ("/bin/sh", "-c", 'exec "$@" < "$CAIRN_ARGUMENTS_FILE"', "tool")
PROBE_SECONDS = 60.0


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """``seconds`` is the limit that the call itself asks for, 0 for none."""

    argv: tuple[str, ...]
    variables: dict[str, str] = {}
    seconds: float = 0.0


def start_of(directory: Path, inside: Path, command: ExecuteTool, arguments: Shell | Program) -> Start:
    """A built-in tool's process; ``directory`` is the environment's, ``inside`` what the process sees it as."""
    if isinstance(arguments, Shell):
        seconds = 0.0 if command.check_stage else arguments.timeout_seconds
        return Start(argv=("/bin/bash", "-c", arguments.command), seconds=seconds)
    prompt_file = directory / "prompt.txt"
    prompt_file.write_text(arguments.prompt, encoding="utf-8")
    argv = tuple(arguments.prompt if item == "{prompt}" else item for item in arguments.argv)
    return Start(argv=argv, variables={"CAIRN_PROMPT_FILE": str(inside / prompt_file.name)})


def start_of_declared(directory: Path, inside: Path, command: ExecuteTool, tool: CommandTool, arguments: str) -> Start:
    return Start(
        argv=(*WITH_INPUT, *tool.command),
        variables=_variables(directory, inside, command, arguments),
        seconds=tool.timeout_seconds,
    )


def start_of_probe(directory: Path, inside: Path, command: ExecuteTool, tool: CommandTool, arguments: str) -> Start:
    """The question whether a call of ``tool`` happened."""
    return Start(
        argv=(*WITH_INPUT, *tool.probe),
        variables=_variables(directory, inside, command, arguments),
        seconds=PROBE_SECONDS,
    )


def _variables(directory: Path, inside: Path, command: ExecuteTool, arguments: str) -> dict[str, str]:
    folder = directory / "arguments"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{command.call_id}.json"
    path.write_text(arguments or "{}", encoding="utf-8")
    return {"CAIRN_ARGUMENTS_FILE": str(inside / folder.name / path.name), "CAIRN_CALL_ID": command.call_id}
