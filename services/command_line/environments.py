"""``cairn environment`` and ``cairn compose``: workspaces in the hands of people, and the systems composed in them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.client import Gateway, is_pending
from services.command_line.failures import FAILED, Failure
from services.command_line.operations import environments
from services.command_line.options import AsJson, gateway

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Workspaces, also without a task.")
compose = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The composed system of an environment.")

Id = Annotated[str, typer.Argument(help="The environment's id.")]
Environment = Annotated[str, typer.Argument(help="The environment's id: see `cairn environment list`.")]
Service = Annotated[str, typer.Argument(help="A service of the Compose file.")]

# The gateway answers sooner than a proxy between would lose its patience.
WAIT_SECONDS = 25

commands.command("list")(environments)


@commands.command("create")
def create(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="The project whose repository it shows.")],
    base: Annotated[str, typer.Option(help="The branch; else the project's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an environment of your own, without a task. It is there until you remove it."""
    with gateway(context) as api:
        answer = api.command("/environments", {"project": project, "base_branch": base}, "", as_json=as_json)
        if as_json or is_pending(answer):
            return
        row = api.get(f"/environments/{answer['id']}", wait_for=answer["sequence"])
    console.say(f"Made {row['id']} on {row['host']}: {row['workspace']}", style="green")
    console.note(f"Next: cairn compose up {row['id']}; when you are done: cairn environment remove {row['id']}")


@commands.command("show")
def show(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """One environment, with its composed system as it was seen last."""
    with gateway(context) as api:
        row = api.get(f"/environments/{id}")
    if as_json:
        console.show_json(row)
        return
    console.fields(
        {
            "environment": row["id"],
            "task": row["task_id"],
            "project": row["project_id"],
            "made by": row["made_by"],
            "status": row["status"],
            "detail": row["detail"],
            "host": row["host"],
            "isolation": row["isolation"],
            "workspace": row["workspace"],
            "checkpoint": row["checkpoint"],
            "running": ", ".join(row["running_calls"]),
            "made": console.when(row["created_at"]),
        }
    )
    system = row["system"]
    if system:
        console.say(f"\nIts system, {system['compose_file']}, as it was seen last{_problem(system)}:")
        console.table(
            ["service", "container", "status", "health", "restarts", "reached at"],
            [
                (
                    item["service"],
                    item["container"],
                    item["status"],
                    item.get("health", ""),
                    item.get("restarts") or "",
                    ", ".join(
                        f"{port['address']}:{port['port']} -> {port['target']}" for port in item.get("ports", ())
                    ),
                )
                for item in system["services"]
            ],
            empty="",
        )


@commands.command("remove")
def remove(
    context: typer.Context, id: Id, reason: Annotated[str, typer.Option()] = "", as_json: AsJson = False
) -> None:
    """Remove an environment with all that runs in it; its checkpoints stay."""
    with gateway(context) as api:
        api.command(f"/environments/{id}/remove", {"reason": reason}, f"Removed {id}.", as_json=as_json)


@compose.command("up")
def up(
    context: typer.Context,
    environment: Environment,
    file: Annotated[str, typer.Option("--file", "-f", help="The Compose file; else compose.yaml or the like.")] = "",
    timeout: Annotated[float, typer.Option(min=1, help="How long to wait until all is healthy, in seconds.")] = 600.0,
    build: Annotated[bool, typer.Option(help="Build images anew.")] = True,
    as_json: AsJson = False,
) -> None:
    """Start the system of a Compose file, or bring it in line, and wait until it is healthy."""
    arguments = {"compose_file": file, "timeout_seconds": timeout, "build": build}
    _call(context, environment, "compose_up", arguments, as_json=as_json)


@compose.command("down")
def down(
    context: typer.Context,
    environment: Environment,
    volumes: Annotated[bool, typer.Option("--volumes", "-v", help="Also remove its data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop and remove the system."""
    _call(context, environment, "compose_down", {"volumes": volumes}, as_json=as_json)


@compose.command("status")
def status(context: typer.Context, environment: Environment, as_json: AsJson = False) -> None:
    """How each service is now."""
    _call(context, environment, "compose_status", {}, as_json=as_json)


@compose.command("exec")
def execute(
    context: typer.Context,
    environment: Environment,
    service: Service,
    command: Annotated[str, typer.Argument(help="A command line, for the container's sh.")],
    timeout: Annotated[float, typer.Option(min=0.1, help="In seconds.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Run a command in a service. Exit code 1 where the command's is not 0."""
    arguments = {"service": service, "command": command, "timeout_seconds": timeout}
    _call(context, environment, "compose_exec", arguments, as_json=as_json)


@compose.command("restart")
def restart(context: typer.Context, environment: Environment, service: Service, as_json: AsJson = False) -> None:
    """Restart a service, or start one that stands still, and wait until it is healthy."""
    _call(context, environment, "restart_service", {"service": service}, as_json=as_json)


@compose.command("logs")
def logs(
    context: typer.Context,
    environment: Environment,
    service: Annotated[str, typer.Argument(help="A service; else all of them.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """The last lines that services printed."""
    _call(context, environment, "tail_logs", {"service": service, "lines": lines}, as_json=as_json)


def _call(context: typer.Context, environment: str, tool: str, arguments: dict[str, Any], *, as_json: bool) -> None:
    """Execute the call, wait for its end however long that takes, and show it."""
    with gateway(context) as api:
        asked = api.post(f"/environments/{environment}/calls", {"tool": tool, "arguments": arguments})
        answer = _ended(api, environment, asked)
    if as_json:
        console.show_json(answer)
    elif answer.get("result"):
        console.say(answer["result"].rstrip("\n"))
    if answer["state"] != "completed":
        message = f"{tool} {answer['state']}: {answer['detail']}"
        raise Failure(message)
    if answer.get("exit_code"):
        raise typer.Exit(FAILED)


def _ended(api: Gateway, environment: str, answer: dict[str, Any]) -> dict[str, Any]:
    while "location" in answer:
        answer = api.get(f"/environments/{environment}/calls/{answer['id']}", wait_seconds=WAIT_SECONDS)
    return answer


def _problem(system: dict[str, Any]) -> str:
    return f" ({system['problem']})" if system.get("problem") else ""
