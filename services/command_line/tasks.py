"""``cairn task``: work that is submitted, watched, answered, approved, tried again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.client import Gateway, is_pending
from services.command_line.failures import FAILED, INVALID, UNREACHABLE, Failure
from services.command_line.options import AsJson, gateway
from services.command_line.watching import watch_task

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work for agents.")

Id = Annotated[str, typer.Argument(help="The task's id, for example shop-7.")]
DIFF_LINES = 40

Stage = Annotated[str, typer.Argument(help="The stage's name.")]


@commands.command("submit")
def submit(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="The project's name.")],
    title: Annotated[str, typer.Argument(help="What is to be done, in a line.")],
    agent: Annotated[str, typer.Option(help="Which agent; else the one that the project gives the role.")] = "",
    description: Annotated[
        str, typer.Option("--description", "-d", help="More about it: text, @FILE, or - for standard input.")
    ] = "",
    criterion: Annotated[list[str] | None, typer.Option(help="What must hold at the end; repeatable.")] = None,
    file: Annotated[list[str] | None, typer.Option(help="A file that it is about; repeatable.")] = None,
    test_command: Annotated[str, typer.Option(help="In place of the project's.")] = "",
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    depends_on: Annotated[list[str] | None, typer.Option(metavar="ID", help="A task to wait for; repeatable.")] = None,
    budget_steps: Annotated[int | None, typer.Option(min=0, help="Answers of the model; 0 is no limit.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(min=0)] = None,
    budget_usd: Annotated[float | None, typer.Option(min=0)] = None,
    budget_seconds: Annotated[float | None, typer.Option(min=0)] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Show what happens until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a task.

    With --wait, exit code 1 says that it was not completed.
    """
    budget = {
        "steps": budget_steps,
        "tokens": budget_tokens,
        "cost_usd": budget_usd,
        "seconds": budget_seconds,
    }
    given = {name: value for name, value in budget.items() if value is not None}
    body = {
        "title": title,
        "description": read_text(description),
        "acceptance_criteria": criterion or [],
        "target_files": file or [],
        "test_command": test_command,
        "priority": priority,
        "depends_on": depends_on or [],
        "agent": agent,
        **({"budget": given} if given else {}),
    }
    with gateway(context) as api:
        answer = api.post(f"/projects/{project}/tasks", body)
        if is_pending(answer) and wait:
            raise Failure(answer["detail"], exit_code=UNREACHABLE)
        if wait:
            _wait(api, answer["id"], as_json=as_json)
        elif as_json:
            console.show_json(answer)
        elif is_pending(answer):
            console.note(answer["detail"], style="yellow")
        else:
            console.say(f"Submitted {answer['id']}.", style="green")
            console.note(f"Watch it: cairn task watch {answer['id']}, cairn logs {answer['id']} -f")


def _wait(api: Gateway, id: str, *, as_json: bool = False) -> None:
    """Show what happens until the task has ended, then the task."""
    if not as_json:
        console.say(f"{id}:", style="bold")
    end = watch_task(api, id, quiet=as_json)
    task = api.get(f"/tasks/{id}", wait_for=end.sequence)
    if as_json:
        console.show_json(task)
    else:
        console.say()
        _show(task)
    if not end.completed:
        raise typer.Exit(FAILED)


@commands.command("list")
def list_tasks(
    context: typer.Context,
    project: Annotated[str, typer.Option(help="Only of this project.")] = "",
    status: Annotated[str, typer.Option(help="Only in this status: running, needs_input, completed …")] = "",
    as_json: AsJson = False,
) -> None:
    """Tasks, the newest first."""
    with gateway(context) as api:
        rows = api.items("/tasks", project=project, status=status)
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["task", "status", "title", "agent", "why", "changed"],
        [
            (
                row["id"],
                row["status"],
                console.shortened(row["title"], 60),
                row["agent"],
                console.shortened(row["reason"], 60),
                console.ago(row["updated_at"]),
            )
            for row in rows
        ],
        empty='There is no such task: cairn task submit PROJECT "…" --agent AGENT',
    )


@commands.command("show")
def show(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """One task.

    Its stages and runs, why it waits, what it asks, its pull request.
    """
    with gateway(context) as api:
        task = api.get(f"/tasks/{id}")
        why = api.get(f"/tasks/{id}/why")
        diffs = {item["divergence_id"]: _text(api, item["diff"]) for item in _diverged(task)}
    if as_json:
        console.show_json({**task, "why": why})
        return
    _show(task, why["summary"])
    for item in _diverged(task):
        _show_divergence(task["id"], item, diffs[item["divergence_id"]])
    for obstacle in why.get("obstacles", ()):
        console.say(f"  · {obstacle['detail']}", style="yellow")
    runs = task["run_list"]
    if runs:
        console.table(
            ["run", "status", "agent", "steps", "tokens", "cost $", "detail"],
            [
                (
                    run["id"],
                    run["status"],
                    run["agent_name"],
                    run["steps"],
                    run["input_tokens"] + run["output_tokens"],
                    run["cost_usd"],
                    console.shortened(run["detail"] or _interrupted(run) or run["summary"], 60),
                )
                for run in runs
            ],
            empty="",
        )


def _show(task: dict[str, Any], why: str = "") -> None:
    specification = task["specification"]
    console.fields(
        {
            "task": task["id"],
            "title": task["title"],
            "status": task["status"],
            "why": task["reason"] or why,
            "agent": task["agent"],
            "depends on": task["depends_on"],
            "forked from": _origin(task.get("forked_from")),
            "criteria": "\n".join(specification.get("acceptance_criteria", [])),
            "branch": task["branch"],
            "pull request": _pull_request(task),
            "submitted": console.when(task["created_at"]),
            "ended": console.when(task["ended_at"]),
            "durability": task.get("durability", ""),
        }
    )
    console.table(
        ["stage", "status", "attempt", "gate", "findings"],
        [
            (
                stage["name"],
                stage["status"],
                stage["attempt"] or "",
                stage["gate"],
                console.shortened(stage["cause"] or stage["findings"], 80),
            )
            for stage in task["stages"]
        ],
        empty="",
    )
    for question in task["questions"]:
        if question.get("answer") is None:
            console.say(f"It asks: {question['question']}", style="yellow")
            console.note(f'Answer it: cairn task answer {task["id"]} "…" --call {question["call_id"]}')


def _origin(forked_from: dict[str, Any] | None) -> str:
    return f"{forked_from['run_id']} at {forked_from['sequence']}" if forked_from else ""


def _interrupted(run: dict[str, Any]) -> str:
    found = run.get("interrupted")
    return f"since {console.ago(found['since'])}, after {found['after']}" if found else ""


def _diverged(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in task.get("divergences", ()) if not item["choice"]]


def _show_divergence(task: str, item: dict[str, Any], diff: str) -> None:
    console.say(f"The {item['kind']} of {item['run_id']} is not as the log tells it:", style="yellow")
    console.fields({"  expected": item["expected"], "  found": item["found"]})
    lines = diff.splitlines()
    for line in lines[:DIFF_LINES]:
        console.say(f"  {line}", style={"+": "green", "-": "red"}.get(line[:1]))
    if len(lines) > DIFF_LINES:
        console.note(f"  [{len(lines) - DIFF_LINES} more lines: cairn task show {task} --json]")
    console.note(f"Choose what holds: cairn task resolve {task} restore|accept|fork|abandon --run {item['run_id']}")


def _text(api: Gateway, content: dict[str, Any]) -> str:
    """The text that a content stands for."""
    if content["kind"] == "inline":
        return str(content.get("text", ""))
    return api.text(f"/content/{content['digest']}")


def _pull_request(task: dict[str, Any]) -> str:
    id, state = task["pull_request_id"], task["pull_request_state"]
    return f"{id} ({state}): cairn pr show {id}" if id else ""


@commands.command("watch")
def watch(context: typer.Context, id: Id) -> None:
    """Show what happens until a task has ended.

    Exit code 1 says that it was not completed.
    """
    with gateway(context) as api:
        api.get(f"/tasks/{id}")
        _wait(api, id)


@commands.command("cancel")
def cancel(
    context: typer.Context, id: Id, reason: Annotated[str, typer.Option()] = "", as_json: AsJson = False
) -> None:
    """Cancel a task; what runs for it is ended."""
    _command(context, f"/tasks/{id}/cancel", {"reason": reason}, f"Cancelled {id}.", as_json)


@commands.command("retry")
def retry(context: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Try a task again that has ended.

    It failed, was blocked or cancelled; its attempts are counted from zero.
    """
    _command(context, f"/tasks/{id}/retry", {}, f"{id} is tried again.", as_json)


@commands.command("answer")
def answer(
    context: typer.Context,
    id: Id,
    text: Annotated[str, typer.Argument(help="Text, @FILE, or - for standard input.")],
    call: Annotated[str, typer.Option(help="Which question, where several are open.")] = "",
    as_json: AsJson = False,
) -> None:
    """Answer the question that a task's agent asks."""
    body = {"answer": read_text(text), "call_id": call}
    _command(context, f"/tasks/{id}/answer", body, f"Answered {id}.", as_json)


@commands.command("resolve")
def resolve(
    context: typer.Context,
    id: Id,
    choice: Annotated[str, typer.Argument(help="restore, accept, fork or abandon.")],
    run: Annotated[str, typer.Option(help="Which run, where several have diverged.")] = "",
    as_json: AsJson = False,
) -> None:
    """Choose what holds where a run found the world other than the log tells.

    restore: what the log tells. accept: what was found. fork: another task goes on from the last durable step.
    abandon: the run ends.
    """
    _command(context, f"/tasks/{id}/divergence", {"choice": choice, "run_id": run}, f"{id}: {choice}.", as_json)


@commands.command("approve")
def approve(context: typer.Context, id: Id, stage: Stage, as_json: AsJson = False) -> None:
    """Approve a stage that waits for it."""
    _command(context, f"/tasks/{id}/stages/{stage}/approve", {}, f"Approved {stage} of {id}.", as_json)


@commands.command("reject")
def reject(
    context: typer.Context,
    id: Id,
    stage: Stage,
    reason: Annotated[str, typer.Option(help="What is to be mended.")],
    as_json: AsJson = False,
) -> None:
    """Reject a stage, with what is to be mended."""
    body = {"reason": reason}
    _command(context, f"/tasks/{id}/stages/{stage}/reject", body, f"Rejected {stage} of {id}.", as_json)


def _command(context: typer.Context, path: str, body: dict[str, Any], done: str, as_json: bool) -> None:
    with gateway(context) as api:
        api.command(path, body, done, as_json=as_json)


def read_text(value: str) -> str:
    """``value``, or what the file after ``@`` or standard input (``-``) holds."""
    if value == "-":
        return sys.stdin.read()
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{value[1:]} cannot be read as text ({error})."
        raise Failure(message, exit_code=INVALID) from error
