"""``cairn queue``, ``environments``, ``notifications``, ``dead-letters``, ``agents``: how the whole is doing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.client import nearest_home
from services.command_line.options import AsJson, gateway

dead_letters = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Commands that could not be handled.")
agents = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who can be given work.")

Sequence = Annotated[int, typer.Argument(min=1, help="The dead letter's number.")]


def queue(context: typer.Context, as_json: AsJson = False) -> None:
    """What waits and runs, and the limits."""
    with gateway(context) as api:
        answer = api.get("/queue")
    if as_json:
        console.show_json(answer)
        return
    console.table(["status", "tasks"], list(answer["by_status"].items()), empty="There is no task yet.")
    if answer["projects"]:
        console.table(
            ["project", "running", "starting", "at most"],
            [(row["id"], row["running"], row["starting"], row["agents_at_once"]) for row in answer["projects"]],
            empty="",
        )
    broken = [row for row in answer.get("breakers", ()) if row["failures"]]
    if broken:
        console.table(
            ["credential", "breaker", "failures", "last", "until", "probe"],
            [
                (
                    row["credential"],
                    row["status"].replace("_", "-"),
                    row["failures"],
                    row["cause"],
                    console.when(row["until"]),
                    row["probe"],
                )
                for row in broken
            ],
            empty="",
        )
    for host, programs in answer.get("preflight", {}).items():
        for finding in programs.values():
            if finding.get("problem"):
                console.say(f"{finding['problem']} on {host}.", style="yellow")
    if answer.get("interrupted"):
        console.say(f"Nobody holds {', '.join(answer['interrupted'])}: interrupted.", style="yellow")
    if answer["recent"]:
        console.table(
            ["task", "status", "title", "changed"],
            [
                (row["id"], row["status"], console.shortened(row["title"], 60), console.ago(row["updated_at"]))
                for row in answer["recent"]
            ],
            empty="",
        )


def environments(context: typer.Context, as_json: AsJson = False) -> None:
    """Workspaces, and what runs in them."""
    with gateway(context) as api:
        rows = api.items("/environments")
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["environment", "status", "host", "running", "workspace", "detail"],
        [
            (
                row["id"],
                row["status"],
                row["host"],
                len(row["running_calls"]) or "",
                row["workspace"],
                console.shortened(row["detail"], 60),
            )
            for row in rows
        ],
        empty="There is no environment yet.",
    )


def notifications(context: typer.Context, as_json: AsJson = False) -> None:
    """Who was told what, and if it arrived."""
    with gateway(context) as api:
        rows = api.items("/deliveries")
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["when", "what", "about", "channel", "status", "detail"],
        [
            (
                console.when(row["occurred_at"]),
                console.shortened(row["title"], 60),
                row["subject_id"],
                row["channel"] + (f" {row['receiver']}" if row["receiver"] else ""),
                row["status"],
                console.shortened(row["detail"], 60),
            )
            for row in rows
        ],
        empty="Nobody was told anything yet.",
    )


@dead_letters.command("list")
def list_dead_letters(context: typer.Context, as_json: AsJson = False) -> None:
    """All dead letters."""
    with gateway(context) as api:
        rows = api.items("/dead-letters")
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["number", "when", "service", "reason", "detail", "tries"],
        [
            (
                row["sequence"],
                console.when(row["time"]),
                row["service"],
                row["reason"],
                console.shortened(row["detail"], 60),
                row["deliveries"],
            )
            for row in rows
        ],
        empty="There is none: every command was handled.",
    )


@dead_letters.command("show")
def show_dead_letter(context: typer.Context, sequence: Sequence, as_json: AsJson = False) -> None:
    """One dead letter with the command in it."""
    with gateway(context) as api:
        row = api.get(f"/dead-letters/{sequence}")
    if as_json:
        console.show_json(row)
        return
    command = row.pop("command")
    console.fields({**row, "time": console.when(row["time"])})
    console.say("\nThe command:", style="bold")
    console.show_json(command)
    console.note(f"Send it again when its cause is mended: cairn dead-letters resend {sequence}")


@dead_letters.command("resend")
def resend(context: typer.Context, sequence: Sequence, as_json: AsJson = False) -> None:
    """Send the command to its service again."""
    with gateway(context) as api:
        api.command(f"/dead-letters/{sequence}/resend", {}, f"Sent {sequence} again.", as_json=as_json)


@agents.command("list")
def list_agents(as_json: AsJson = False) -> None:
    """The agents of the settings file.

    It lies beside the nearest .cairn, else in this directory.
    """
    import msgspec

    from infra.settings import FILE_NAME, load

    home = nearest_home()
    beside = home.parent / FILE_NAME if home is not None else None
    settings = load(beside if beside is not None and beside.is_file() else None)
    if as_json:
        console.show_json([{"name": name, **msgspec.to_builtins(agent)} for name, agent in settings.agents.items()])
        return
    console.table(
        ["agent", "kind", "what", "limits"],
        [(name, _kind(agent), _what(agent), _limits(agent)) for name, agent in sorted(settings.agents.items())],
        empty=f"No agent is described: add an [agents.NAME] section to {FILE_NAME} and start `cairn up` again.",
    )


def _kind(agent: Any) -> str:
    return str(agent.__struct_config__.tag)


def _what(agent: Any) -> str:
    if _kind(agent) == "program":
        return console.shortened(" ".join(agent.command), 60)
    return " ".join(filter(None, [agent.provider, agent.model or agent.transcript, agent.base_url]))


def _limits(agent: Any) -> str:
    limits = agent.limits
    parts = {"steps": limits.steps, "tokens": limits.tokens, "s": limits.seconds, "$": limits.cost_usd}
    return ", ".join(f"{value:g} {unit}" for unit, value in parts.items() if value)
