"""The tools of an agent, as data: what a model is offered, and how the arguments of a call are checked.

One struct per tool is the source of both: its JSON schema goes to the model, and what comes back is decoded into it.
What executes them is the environment-manager's; ``ask_human`` and ``submit`` are the agent-runner's own and never
dispatched. An agent may also declare tools of its own, which are commands (``events.agents.CommandTool``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from events import faults
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


Service = Annotated[str, Meta(min_length=1, description="The name of a service of the Compose file.")]
ServiceOrAll = Annotated[str, Meta(description="The name of a service of the Compose file. Empty: every service.")]


class ComposeUp(Arguments, frozen=True, kw_only=True):
    compose_file: Annotated[
        str,
        Meta(description="Path of the Compose file. Empty: compose.yaml, docker-compose.yml or how it may be called."),
    ] = ""
    timeout_seconds: Annotated[
        float, Meta(gt=0, le=7200, description="How long to wait until everything is built, started and healthy.")
    ] = 600.0
    build: Annotated[bool, Meta(description="Build images that have a build section anew, as their files are now.")] = (
        True
    )


class ComposeDown(Arguments, frozen=True, kw_only=True):
    volumes: Annotated[bool, Meta(description="Also remove the volumes, with the data in them.")] = False


class ComposeStatus(Arguments, frozen=True, kw_only=True):
    pass


class ComposeExec(Arguments, frozen=True, kw_only=True):
    service: Service
    command: Annotated[str, Meta(min_length=1, description="The command line, for the container's sh.")]
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600, description="End the command after so many seconds.")] = 60.0


class RestartService(Arguments, frozen=True, kw_only=True):
    service: Service
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600, description="How long to wait until it is healthy.")] = 120.0


class TailLogs(Arguments, frozen=True, kw_only=True):
    service: ServiceOrAll = ""
    lines: Annotated[int, Meta(ge=1, le=10_000, description="How many lines of each container, the last ones.")] = 100


class RunExperimentFile(Arguments, frozen=True, kw_only=True):
    path: Annotated[str, Meta(min_length=1, description="Path of the experiment, JSON or YAML, in the working copy.")]
    dry_run: Annotated[bool, Meta(description="Only check it, and say which containers it would hit.")] = False
    fresh: Annotated[
        bool,
        Meta(
            description="Bring the system up anew first, as its files are now and without the data that it had; take "
            "it down afterwards."
        ),
    ] = False


class InjectFault(Arguments, frozen=True, kw_only=True):
    """What all tools of single faults have; the rest is the fault's own (``events.faults``)."""

    wait: Annotated[bool, Meta(description="Answer when the fault is undone; otherwise as soon as it holds.")] = False


# What a model is told of the fields of faults.
_OF_FAULTS = {
    "service": "The service, all its containers; or one container of it, such as worker-2.",
    "peer": "The service, or container, on the other side. Empty: everybody.",
    "duration_seconds": "The fault ends by itself after so many seconds.",
    "mode": "drop: silence; reset: connections are refused and reset at once.",
    "delay_milliseconds": "How much longer a round trip takes.",
    "jitter_milliseconds": "How much that varies, up and down.",
    "percent": "How much of it: of the packets, or of the volume.",
    "kilobits_per_second": "How fast it can send.",
    "cpus": "How many CPUs each container has at most; 0.25 is a quarter of one.",
    "workers": "How many busy processes.",
    "megabytes": "How much memory is used up.",
    "path": "Where the volume is mounted in the container.",
    "grace_seconds": "How long it has to end by itself before it is killed.",
}


def _arguments_of(fault: type[faults.Fault]) -> type[Arguments]:
    """The arguments of the tool that injects ``fault``: the fields of the fault, described."""
    hints = get_type_hints(fault, include_extras=True)
    fields: list[Any] = []
    for field in msgspec.structs.fields(fault):
        hint: Any = Annotated[hints[field.name], Meta(description=_OF_FAULTS[field.name])]
        required = field.default is msgspec.NODEFAULT
        fields.append((field.name, hint) if required else (field.name, hint, field.default))
    made: Any = msgspec.defstruct(
        fault.__name__, fields, bases=(InjectFault,), frozen=True, kw_only=True, forbid_unknown_fields=True
    )
    arguments: type[Arguments] = made
    return arguments


FAULT_TOOLS: dict[str, type[Arguments]] = {kind: _arguments_of(fault) for kind, fault in faults.KINDS.items()}
RUN_EXPERIMENT = "run_experiment"


# What a stage may open to its agent beside the tools that every agent has (``Stage.tools``).
GROUPS = ("compose", "faults")


class ToolDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """``parameters`` is the JSON schema of the arguments. ``effects`` (none, workspace or external) and ``retry``
    (never, idempotent or probe) say what may follow an uncertain end. One with a ``group`` is only for stages that
    name it."""

    name: str
    description: str
    parameters: dict[str, Any]
    effects: str = "none"
    retry: str = "never"
    group: str = ""


def _define(
    kind: type[Arguments], name: str, description: str, effects: str = "none", *, retry: str = "never", group: str = ""
) -> tuple[ToolDefinition, msgspec.json.Decoder[Arguments]]:
    _, components = msgspec.json.schema_components((kind,))
    parameters = {key: value for key, value in components[kind.__name__].items() if key not in ("title", "description")}
    definition = ToolDefinition(
        name=name, description=description, parameters=parameters, effects=effects, retry=retry, group=group
    )
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
        _define(
            ComposeUp,
            "compose_up",
            "Start the services of a Compose file, or bring those that run in line with it, and wait until they are "
            "healthy. Answers where each can be reached: its published ports are mapped to free ones on 127.0.0.1.",
            "external",
            retry="idempotent",
            group="compose",
        ),
        _define(
            ComposeDown,
            "compose_down",
            "Stop and remove the services that compose_up started.",
            "external",
            retry="idempotent",
            group="compose",
        ),
        _define(
            ComposeStatus,
            "compose_status",
            "See how each service is now: its state, health, restarts and published ports.",
            group="compose",
        ),
        _define(
            ComposeExec,
            "compose_exec",
            "Run a command in the container of a service and get what it prints.",
            "external",
            group="compose",
        ),
        _define(
            RestartService,
            "restart_service",
            "Restart a service, or start one that stands still, and wait until it is healthy.",
            "external",
            retry="idempotent",
            group="compose",
        ),
        _define(TailLogs, "tail_logs", "Read the last lines that a service printed.", group="compose"),
        *(
            _define(
                kind,
                name,
                " ".join((faults.KINDS[name].__doc__ or "").replace("``", "").split()),
                "external",
                retry="idempotent",
                group="faults",
            )
            for name, kind in FAULT_TOOLS.items()
        ),
        _define(
            RunExperimentFile,
            RUN_EXPERIMENT,
            "Run an experiment on the system that is up: it probes the steady state, injects faults, watches, undoes "
            "them, waits until the system has recovered, and answers with a verdict and with what it found.",
            "external",
            retry="idempotent",
            group="faults",
        ),
        _define(Program, "program", "Run an agent program.", "external"),
        _define(Noop, "noop", "Answer the text that was given."),
    )
}

INTERNAL = ("program", "noop")

# Those that every model is offered, in the order in which it sees them.
AGENT_TOOLS = tuple(
    definition for definition, _ in _ALL.values() if definition.name not in INTERNAL and not definition.group
)
GROUPED_TOOLS = tuple(definition for definition, _ in _ALL.values() if definition.group)


def declared_by(agent: Agent) -> dict[str, CommandTool]:
    """The tools that are the agent's own."""
    return agent.tools if isinstance(agent, ModelAgent) else {}


def offered_to(agent: Agent, groups: Collection[str] = ()) -> tuple[ToolDefinition, ...]:
    """Everything that the model of ``agent`` is offered where a stage opens ``groups``, its own tools last."""
    return (
        *AGENT_TOOLS,
        *(tool for tool in GROUPED_TOOLS if tool.group in groups),
        *(define_declared(name, tool) for name, tool in declared_by(agent).items()),
    )


def not_allowed(name: str, groups: Collection[str]) -> str:
    """Why a tool must not be used where only ``groups`` are open; empty where it may."""
    definition = find(name)
    if definition is None or not definition.group or definition.group in groups:
        return ""
    return (
        f"{name} belongs to the tool group {definition.group!r}, which this stage does not allow: a stage of the "
        f'project\'s pipeline opens it with tools = ["{definition.group}"].'
    )


def define_declared(name: str, tool: CommandTool) -> ToolDefinition:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return ToolDefinition(
        name=name, description=tool.description, parameters=parameters, effects=tool.effects, retry=tool.retry
    )


def find(name: str) -> ToolDefinition | None:
    """The built-in tool of that name, internal ones and those of every group too."""
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
