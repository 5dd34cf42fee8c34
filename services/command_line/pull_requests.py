"""``cairn pr``: branches offered for review."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from services.command_line import console
from services.command_line.client import is_pending
from services.command_line.failures import Failure
from services.command_line.options import AsJson, gateway

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Pull requests.")

Id = Annotated[str, typer.Argument(help="The pull request's id, which is its task's.")]


@commands.command("list")
def list_pull_requests(context: typer.Context, as_json: AsJson = False) -> None:
    """All pull requests."""
    with gateway(context) as api:
        rows = api.items("/pull-requests")
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["pull request", "state", "title", "branch", "base", "lines", "changed"],
        [
            (
                row["id"],
                row["state"],
                console.shortened(row["title"], 60),
                row["head"],
                row["base"],
                f"+{row['lines_added']} −{row['lines_removed']}",
                console.ago(row["updated_at"]),
            )
            for row in rows
        ],
        empty="There is no pull request yet.",
    )


@commands.command("show")
def show(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """One pull request."""
    with gateway(context) as api:
        row = api.get(f"/pull-requests/{id}")
    if as_json:
        console.show_json(row)
        return
    console.fields(
        {
            "pull request": row["id"],
            "title": row["title"],
            "state": row["state"],
            "approved by": row["approved_by"],
            "branch": f"{row['head']} → {row['base']}",
            "repository": row["repository_url"],
            "commit": row["head_commit"],
            "merged as": row["merge_commit"],
            "changes": f"+{row['lines_added']} −{row['lines_removed']} in {row['files_changed']} files",
            "detail": row["detail"],
            "opened": console.when(row["opened_at"]),
        }
    )
    if row.get("description"):
        console.say("\n" + row["description"])
    if row["state"] in ("open", "approved"):
        console.note(f"Next: cairn pr diff {id}, cairn pr approve {id}, cairn pr merge {id}")


@commands.command("diff")
def diff(context: typer.Context, id: Id) -> None:
    """The change as a unified diff, coloured on a terminal, as it is in a pipe."""
    with gateway(context) as api:
        text = api.text(f"/pull-requests/{id}/diff")
    if sys.stdout.isatty():
        from rich.syntax import Syntax

        console.out().print(Syntax(console.safe(text), "diff", background_color="default", word_wrap=False))
    else:
        sys.stdout.write(text)


@commands.command("approve")
def approve(
    context: typer.Context, id: Id, comment: Annotated[str, typer.Option()] = "", as_json: AsJson = False
) -> None:
    """Approve a pull request as it is now; a later push takes that back."""
    with gateway(context) as api:
        api.command(f"/pull-requests/{id}/approve", {"comment": comment}, f"Approved {id}.", as_json=as_json)


@commands.command("merge")
def merge(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Merge the branch into its base on the project's remote."""
    with gateway(context) as api:
        answer = api.command(f"/pull-requests/{id}/merge", {}, "", as_json=as_json)
        if is_pending(answer):
            return
        row = api.get(f"/pull-requests/{id}", wait_for=answer["sequence"])
    if row["state"] != "merged":
        message = f"{id} was not merged: {row['detail']}"
        raise Failure(message)
    if not as_json:
        console.say(f"Merged {id} as {row['merge_commit']}.", style="green")


@commands.command("close")
def close(context: typer.Context, id: Id, reason: Annotated[str, typer.Option()] = "", as_json: AsJson = False) -> None:
    """Close a pull request without merging it."""
    with gateway(context) as api:
        api.command(f"/pull-requests/{id}/close", {"reason": reason}, f"Closed {id}.", as_json=as_json)
