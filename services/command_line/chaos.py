"""``cairn chaos``: experiments, and the halt of all of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.client import Gateway, is_pending
from services.command_line.failures import FAILED, INVALID, UNREACHABLE, Failure
from services.command_line.options import AsJson, gateway

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Faults and experiments.")

POLL_SECONDS = 0.3
ENDED = ("completed", "deviated", "aborted", "refused", "checked")

Id = Annotated[str, typer.Argument(help="The experiment's id.")]
File = Annotated[Path, typer.Argument(help="The experiment: JSON or YAML, see docs/chaos.md.")]
Target = Annotated[
    str, typer.Option("--environment", "-e", help="The environment's id, or compose:NAME of a project that is allowed.")
]
Host = Annotated[str, typer.Option(help="Of a compose:NAME target, where there are several hosts.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the experiment.")]


@commands.command("run")
def run(
    context: typer.Context,
    file: File,
    environment: Target,
    host: Host = "",
    reason: Reason = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Show what happens until the verdict.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment.

    With --wait the exit code is 0 where everything held, else 1.
    """
    with gateway(context) as api:
        answer = _post(api, file, environment, host, reason)
        if is_pending(answer):
            raise Failure(answer["detail"], exit_code=UNREACHABLE)
        id = answer["id"]
        if not wait:
            if as_json:
                console.show_json(answer)
            else:
                console.say(f"Experiment {id} has begun.", style="green")
                console.note(f"Look at it: cairn chaos show {id}; end it: cairn chaos abort {id}")
            return
        row = _wait(api, id, answer["sequence"], quiet=as_json)
    if as_json:
        console.show_json(row)
    else:
        _show(row)
    if row["status"] != "completed":
        raise typer.Exit(FAILED)


@commands.command("dry-run")
def dry_run(context: typer.Context, file: File, environment: Target, host: Host = "", as_json: AsJson = False) -> None:
    """Check an experiment, and say which containers it would hit. Nothing happens to them."""
    with gateway(context) as api:
        answer = _post(api, file, environment, host, "", dry_run=True)
        if is_pending(answer):
            raise Failure(answer["detail"], exit_code=UNREACHABLE)
        row = api.get(f"/experiments/{answer['id']}", wait_for=answer["sequence"])
    if as_json:
        console.show_json(row)
        return
    console.say(f"{row['title']}: can be run on {row['target']}.", style="green")
    _show_faults(row)


@commands.command("list")
def list_experiments(
    context: typer.Context,
    environment: Annotated[str, typer.Option("--environment", "-e", help="Only those of this target.")] = "",
    as_json: AsJson = False,
) -> None:
    """All experiments, newest first."""
    with gateway(context) as api:
        rows = api.items("/experiments", target=environment)
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["experiment", "status", "title", "target", "recovered", "asked by", "when"],
        [
            (
                row["id"],
                row["status"],
                console.shortened(row["title"], 50),
                row["target"],
                f"{row['recovery_seconds']:.1f} s" if row["recovery_seconds"] is not None else "",
                row["requested_by"],
                console.ago(row["requested_at"]),
            )
            for row in rows
        ],
        empty="There is no experiment yet: cairn chaos run FILE --environment ID",
    )


@commands.command("show")
def show(
    context: typer.Context,
    id: Id,
    journal: Annotated[bool, typer.Option("--journal", help="Its journal, in the Chaos Toolkit's shape.")] = False,
    as_json: AsJson = False,
) -> None:
    """One experiment, with what it found."""
    with gateway(context) as api:
        row = api.get(f"/experiments/{id}/journal") if journal else api.get(f"/experiments/{id}")
    if as_json or journal:
        console.show_json(row)
    else:
        _show(row)


@commands.command("abort")
def abort(context: typer.Context, id: Id, reason: Reason = "", as_json: AsJson = False) -> None:
    """End an experiment now: everything is undone."""
    with gateway(context) as api:
        api.command(f"/experiments/{id}/abort", {"reason": reason}, f"{id} is being undone.", as_json=as_json)


@commands.command("halt")
def halt(context: typer.Context, reason: Reason = "", as_json: AsJson = False) -> None:
    """Abort every experiment on every host, and let none begin until `cairn chaos resume`."""
    with gateway(context) as api:
        api.command("/chaos/halt", {"reason": reason}, "Chaos is halted.", as_json=as_json)


@commands.command("resume")
def resume(context: typer.Context, reason: Reason = "", as_json: AsJson = False) -> None:
    """Let experiments begin again."""
    with gateway(context) as api:
        api.command("/chaos/resume", {"reason": reason}, "Experiments may begin again.", as_json=as_json)


@commands.command("faults")
def faults(context: typer.Context, as_json: AsJson = False) -> None:
    """What each host can do, and why not the rest."""
    with gateway(context) as api:
        answer = api.get("/chaos")
    if as_json:
        console.show_json(answer)
        return
    if answer["halted"]:
        reason = f": {answer['reason']}" if answer["reason"] else ""
        console.say(f"Chaos is halted by {answer['halted_by'] or 'somebody'}{reason}.", style="yellow")
    console.table(
        ["host", "fault", "possible", "why not"],
        [
            (host["host"], kind, not why, console.shortened(why, 120))
            for host in answer["hosts"]
            for kind, why in host["faults"].items()
        ],
        empty="No host has said yet what it can do; it does some seconds after its chaos service started.",
    )


def _post(
    api: Gateway, file: Path, environment: str, host: str, reason: str, *, dry_run: bool = False
) -> dict[str, Any]:
    try:
        document = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read: {error}."
        raise Failure(message, exit_code=INVALID) from error
    body = {"document": document, "target": environment, "host": host, "reason": reason, "dry_run": dry_run}
    answer: dict[str, Any] = api.post("/experiments", body)
    return answer


def _wait(api: Gateway, id: str, sequence: int, *, quiet: bool) -> dict[str, Any]:
    """The experiment with its verdict. Ctrl-C only stops watching."""
    shown = ""
    try:
        while True:
            row: dict[str, Any] = api.get(f"/experiments/{id}", wait_for=sequence)
            if row["status"] != shown and not quiet:
                shown = row["status"]
                console.note(f"{console.when(row['updated_at'])[11:]}  {shown}")
            if row["status"] in ENDED:
                return row
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        console.note(f"It goes on: cairn chaos show {id}; end it: cairn chaos abort {id}")
        raise typer.Exit(130) from None


def _show(row: dict[str, Any]) -> None:
    recovered = row["recovery_seconds"]
    console.fields(
        {
            "experiment": row["id"],
            "title": row["title"],
            "status": row["status"],
            "verdict": row["summary"],
            "target": row["target"],
            "host": row["host"],
            "recovered": f"{recovered:.1f} s after the last fault" if recovered is not None else "",
            "asked by": row["requested_by"],
            "reason": row["reason"],
            "call": row["call_id"],
            "begun": console.when(row["requested_at"]),
            "ended": console.when(row["ended_at"]),
        }
    )
    _show_faults(row)
    for finding in row["findings"]:
        console.say(f"\n{finding['text']}")
        if finding.get("recommendation"):
            console.say(f"  {finding['recommendation']}", style="dim")


def _show_faults(row: dict[str, Any]) -> None:
    console.table(
        ["fault", "containers", "towards", "seconds", "state", "detail"],
        [
            (
                fault["fault"]["kind"],
                fault["containers"],
                fault["peers"],
                fault["fault"]["duration_seconds"],
                fault["state"],
                fault["detail"],
            )
            for fault in row["faults"]
        ],
        empty="",
    )
