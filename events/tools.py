"""The tools of an agent, as data: what a model is offered, and how the arguments of a call are checked.

One struct per tool is the source of both: its JSON schema goes to the model, and what comes back is decoded into it.
What executes them is the environment-manager's; ``ask_human`` and ``submit`` are the agent-runner's own and never
dispatched. An agent may also declare tools of its own, which are commands (``events.agents.CommandTool``).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from events.agents import Agent, CommandTool, ModelAgent


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of one call."""


Path = Annotated[str, Meta(min_length=1, description="Path relative to the root of the working copy.")]


class Shell(Arguments, frozen=True, kw_only=True):
    command: Annotated[str, Meta(min_length=1, description="The command line, for bash.")]
    timeout_seconds: Annotated[
        float,
        Meta(ge=0, description="End the command after so many seconds. 0: only the limits of the whole run apply."),
    ] = 600.0


class ReadFile(Arguments, frozen=True, kw_only=True):
    path: Path
    offset: Annotated[int, Meta(ge=1, description="The first line to read, counted from 1.")] = 1
    limit: Annotated[int, Meta(ge=1, description="How many lines to read at most.")] = 2000


class WriteFile(Arguments, frozen=True, kw_only=True):
    path: Path
    content: Annotated[str, Meta(description="The whole content of the file.")]


class EditFile(Arguments, frozen=True, kw_only=True):
    path: Path
    old: Annotated[
        str, Meta(min_length=1, description="The text to replace, exactly as in the file, with its whitespace.")
    ]
    new: Annotated[str, Meta(description="The text to put in its place.")]
    replace_all: Annotated[bool, Meta(description="Replace every occurrence; otherwise there must be one.")] = False


class ListFiles(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, Meta(min_length=1, description="The directory to list, with all below it.")] = "."
    pattern: Annotated[
        str, Meta(description="Only paths below it that match, such as '*.py'; '*' also stands for '/'.")
    ] = ""


class SearchFiles(Arguments, frozen=True, kw_only=True):
    pattern: Annotated[str, Meta(min_length=1, description="A regular expression (Perl's), matched line by line.")]
    path: Annotated[str, Meta(min_length=1, description="The file or directory to search.")] = "."
    glob: Annotated[str, Meta(description="Only files that match, such as '*.py'; '*' also stands for '/'.")] = ""


class AskHuman(Arguments, frozen=True, kw_only=True):
    question: Annotated[str, Meta(min_length=1, description="The question, with all that one must know to answer it.")]


class Submit(Arguments, frozen=True, kw_only=True):
    summary: Annotated[str, Meta(description="What was changed, why, and how it was checked.")]


class Program(Arguments, frozen=True, kw_only=True):
    """``{prompt}`` in an argument stands for ``prompt``, which is also in the file ``$CAIRN_PROMPT_FILE``."""

    argv: Annotated[tuple[str, ...], Meta(min_length=1)]
    prompt: str = ""


class Noop(Arguments, frozen=True, kw_only=True):
    text: str = ""


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """``parameters`` is the JSON schema of the arguments. ``effects`` (none, workspace or external) and ``retry``
    (never, idempotent or probe) say what may follow an uncertain end."""

    name: str
    description: str
    parameters: dict[str, Any]
    effects: str = "none"
    retry: str = "never"


def _define(
    kind: type[Arguments], name: str, description: str, effects: str = "none"
) -> tuple[ToolDefinition, msgspec.json.Decoder[Arguments]]:
    _, components = msgspec.json.schema_components((kind,))
    parameters = {key: value for key, value in components[kind.__name__].items() if key not in ("title", "description")}
    definition = ToolDefinition(name=name, description=description, parameters=parameters, effects=effects)
    return definition, msgspec.json.Decoder(kind)


_ALL = {
    definition.name: (definition, decoder)
    for definition, decoder in (
        _define(
            Shell,
            "shell",
            "Run a command with bash in the root of the working copy and get what it prints. There is no terminal and "
            "no input. What it leaves running in the background is ended with it.",
            "workspace",
        ),
        _define(ReadFile, "read_file", "Read a text file, or some of its lines."),
        _define(
            WriteFile,
            "write_file",
            "Write a file, with the directories it needs. What it held before is lost.",
            "workspace",
        ),
        _define(EditFile, "edit_file", "Replace a piece of a file by another.", "workspace"),
        _define(ListFiles, "list_files", "List the files of the working copy, those that git ignores left out."),
        _define(
            SearchFiles,
            "search_files",
            "Find the lines of the working copy's files that match. Files that git ignores and binary files are left "
            "out.",
        ),
        _define(AskHuman, "ask_human", "Ask a person, and wait for the answer."),
        _define(Submit, "submit", "Say that the task is done. This ends the work."),
        _define(Program, "program", "Run an agent program.", "external"),
        _define(Noop, "noop", "Answer the text that was given."),
    )
}

INTERNAL = ("program", "noop")

# Those that a model is offered, in the order in which it sees them.
AGENT_TOOLS = tuple(definition for definition, _ in _ALL.values() if definition.name not in INTERNAL)


def declared_by(agent: Agent) -> dict[str, CommandTool]:
    """The tools that are the agent's own."""
    return agent.tools if isinstance(agent, ModelAgent) else {}


def offered_to(agent: Agent) -> tuple[ToolDefinition, ...]:
    """Everything that the model of ``agent`` is offered, its own tools last."""
    return (*AGENT_TOOLS, *(define_declared(name, tool) for name, tool in declared_by(agent).items()))


def define_declared(name: str, tool: CommandTool) -> ToolDefinition:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return ToolDefinition(
        name=name, description=tool.description, parameters=parameters, effects=tool.effects, retry=tool.retry
    )


def find(name: str) -> ToolDefinition | None:
    """The tool of that name that every agent has, internal ones too."""
    known = _ALL.get(name)
    return None if known is None else known[0]


def decode_arguments(name: str, arguments: str) -> Arguments | str:
    """The arguments as their struct, or what is wrong with them, for the one who wrote them."""
    if name not in _ALL:
        return f"there is no tool {name!r}; there are {', '.join(tool.name for tool in AGENT_TOOLS)}."
    definition, decoder = _ALL[name]
    try:
        return decoder.decode(arguments or "{}")
    except msgspec.ValidationError as error:
        takes = ", ".join(definition.parameters["properties"])
        return f"the arguments of {name} do not fit: {error}. It takes {takes}."
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        near = _near(arguments, str(error))
        return f"the arguments of {name} are not valid JSON: {error}{near}. Send one JSON object."


def declared_arguments(name: str, tool: CommandTool, arguments: str) -> str:
    """What is wrong with the arguments of a declared tool, or nothing. Whether they make sense its command tells."""
    try:
        decoded = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        return (
            f"the arguments of {name} are not valid JSON: {error}{_near(arguments, str(error))}. Send one JSON object."
        )
    if not isinstance(decoded, dict):
        return f"the arguments of {name} are no JSON object. Send one JSON object."
    missing = [key for key in tool.parameters.get("required", ()) if key not in decoded]
    return f"the arguments of {name} lack {', '.join(missing)}." if missing else ""


def check_arguments(name: str, arguments: str) -> dict[str, Any] | str:
    """The arguments as a dictionary with every default filled in, or what is wrong with them."""
    decoded = decode_arguments(name, arguments)
    return decoded if isinstance(decoded, str) else msgspec.to_builtins(decoded)


def _near(arguments: str, error: str) -> str:
    """What stands around the byte that a decoding error names, or the end of what was cut off."""
    data = arguments.encode(errors="replace")
    number = error.rpartition("(byte ")[2].rstrip(")")
    if not number.isdigit():
        return f" at byte {len(data)}, after {data[-20:].decode(errors='replace')!r}"
    start = max(int(number) - 20, 0)
    return f", near {data[start : int(number) + 20].decode(errors='replace')!r}"
