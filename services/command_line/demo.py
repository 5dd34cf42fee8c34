"""``cairn demo``: the main job end to end, with two services killed in the middle of it.

Three tasks in a repository that the demo makes: one mends a bug, two build upon it, one of those fails its gate and
is sent back. While a command of the first runs, the agent-runner is killed; while one of the second runs, the
environment-manager. Both come back, both commands turn out to have run once, and every task ends as it should.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.command_line import console, demo_files
from services.command_line.client import Gateway, ServerEvent
from services.command_line.failures import FAILED, INVALID, Failure
from services.command_line.narration import TASK_ENDS, sentence
from services.command_line.watching import follow

if TYPE_CHECKING:
    from infra.embedded.supervisor import Report

PROJECT = "shop"
LIMIT_SECONDS = 120.0
TASKS = (
    ("Mend the total of the cart", "mender", ()),
    ("Add a discount in percent", "builder", ("shop-1",)),
    ("Print a receipt", "printer", ("shop-1",)),
)
# Which service is killed while the slow command of which task runs.
KILLS = {"shop-1": "agent-runner", "shop-2": "environment-manager"}


def demo(
    directory: Annotated[
        Path | None,
        typer.Option(help="Where the demo makes its repository and keeps its data; else ./cairn-demo, or -2, -3 …"),
    ] = None,
) -> None:
    """Show the main job from task to pull request, with two services killed on the way.

    Ends by itself in less than a minute; its data is kept.
    """
    from infra.embedded.stack import Stack
    from infra.settings import load

    directory = (directory or _free_directory()).absolute()
    if directory.exists() and any(directory.iterdir()):
        message = f"{directory} is not empty: remove it, or choose another place with --directory."
        raise Failure(message, exit_code=INVALID)
    began = time.monotonic()
    repository = demo_files.write(directory)
    settings_file = directory / "cairn.toml"
    settings = load(settings_file, {"CAIRN_GATEWAY__PORT": "0"})
    home = directory / ".cairn"
    stack = Stack(home, settings, settings_file=settings_file, report=_hear)
    console.say(f"A repository with a bug in {repository}, and Cairn beside it.", style="bold")
    try:
        stack.start()
        unready = stack.supervisor.wait_until_ready(LIMIT_SECONDS)
        if unready:
            message = f"not ready: {', '.join(unready)}. Their logs are in {home / 'logs'}."
            raise Failure(message, exit_code=FAILED)
        console.note(f"Everything runs after {time.monotonic() - began:.1f} s.")
        key = (home / "key").read_text(encoding="utf-8").strip()
        with Gateway(stack.url, key) as api:
            story = _play(api, home, repository)
        counted = Counter(demo_files.executions(directory).read_text(encoding="utf-8").split())
    finally:
        stack.stop()
    _tell(story, counted, directory, time.monotonic() - began)
    if not story.passed or any(count != 1 for count in counted.values()):
        raise typer.Exit(FAILED)


def _free_directory() -> Path:
    """Earlier demos are kept: the first name that none has."""
    names = (Path(f"cairn-demo-{number}") if number > 1 else Path("cairn-demo") for number in itertools.count(1))
    return next(path for path in names if not path.exists())


class Story:
    """What the events said, by task."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.killed: dict[str, str] = {}
        self.pull_requests: dict[str, str] = {}

    @property
    def passed(self) -> bool:
        return len(self.ends) == len(TASKS) and all(TASK_ENDS[end] for end in self.ends.values())


def _play(api: Gateway, home: Path, repository: Path) -> Story:
    api.post(
        "/projects",
        {
            "name": PROJECT,
            "repository": {"url": str(repository)},
            "test_command": demo_files.TEST_COMMAND,
            "isolation": "worktree",  # The same is shown with an engine and without, and where no image can be fetched.
        },
    )
    for title, agent, depends_on in TASKS:
        api.post(f"/projects/{PROJECT}/tasks", {"title": title, "agent": agent, "depends_on": list(depends_on)})
    story = Story()
    deadline = time.monotonic() + LIMIT_SECONDS
    for event in follow(api, "/events/stream", last_id="0"):
        _take(event, story, home)
        if len(story.ends) == len(TASKS):
            return story
        if time.monotonic() > deadline:
            break
    message = f"not all tasks ended within {LIMIT_SECONDS:.0f} s. The services' logs are in {home / 'logs'}."
    raise Failure(message, exit_code=FAILED)


def _take(event: ServerEvent, story: Story, home: Path) -> None:
    """Show an event, remember it, and kill what is to be killed at it."""
    entity_id = event.data["entity_id"]
    task = next((f"{PROJECT}-{number}" for number in (1, 2, 3) if _belongs(entity_id, f"{PROJECT}-{number}")), "")
    for entry in event.data.get("events", ()):
        kind = entry["type"]
        story.counts[task][kind] += 1
        if task and kind not in ("DeliveryPlanned", "DeliverySucceeded"):
            text, style = sentence(entry)
            console.say(f"{task}  {text}", style=style or None)
        if kind in TASK_ENDS and entity_id == task:
            story.ends[task] = kind
        elif kind == "PullRequestOpened":
            story.pull_requests[task] = f"+{entry['lines_added']} −{entry['lines_removed']}"
        elif kind == "ToolCallStarted" and entry["tool"] == "shell" and _is_slow(story, task):
            _kill(story, task, home)


def _belongs(entity_id: str, task: str) -> bool:
    return entity_id == task or entity_id.startswith(f"{task}-")


def _is_slow(story: Story, task: str) -> bool:
    """The slow command is the mender's first shell call and the builder's second."""
    if task not in KILLS or task in story.killed:
        return False
    return story.counts[task]["ToolCallStarted"] == {"shop-1": 1, "shop-2": 3}[task]


def _kill(story: Story, task: str, home: Path) -> None:
    from infra.embedded import stack_file

    service = KILLS[task]
    file = stack_file.read(home)
    if file is not None and service in file.processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(file.processes[service].pid, signal.SIGKILL)
        story.killed[task] = service
        console.say(f"        kill -9 {service}", style="bold red")


def _hear(report: Report) -> None:
    from infra.embedded.supervisor import Died

    if isinstance(report, Died) and report.count.bit_count() == 1:  # 1st, 2nd, 4th, 8th … time
        why = f" ({console.shortened(report.detail, 300)})" if report.code is None else ""
        console.say(f"        {report.name} died{why} and is started again", style="yellow")


def _tell(story: Story, counted: Counter[str], directory: Path, seconds: float) -> None:
    rows = []
    for number, (title, agent, _) in enumerate(TASKS, 1):
        task = f"{PROJECT}-{number}"
        counts = story.counts[task]
        killed = f"{story.killed[task]} killed" if task in story.killed else ""
        again = f"{counts['GateRefused']} time{'s' if counts['GateRefused'] != 1 else ''}"
        rows.append(
            (
                task,
                title,
                story.ends.get(task, "?").removeprefix("Task").lower(),
                counts["RunRequested"],
                counts["ModelResponded"],
                again if counts["GateRefused"] else "never",
                f"{killed}; slow command ran {counted[agent]}×" if killed else "",
                story.pull_requests.get(task, ""),
            )
        )
    console.say()
    columns = ["task", "what", "ended", "runs", "steps", "sent back", "what was done to it", "pull request"]
    console.table(columns, rows, empty="")
    console.say()
    console.say(f"{len(story.ends)} tasks, 2 services killed, {seconds:.0f} s. Everything is kept.", style="bold")
    console.fields(
        {
            "  open it again": f"cd {directory.name} && cairn up",
            "  then, beside it": "cairn task list · cairn pr diff shop-1 · cairn replay shop-1-development-1",
        }
    )
