"""The task of the crash matrix: an agent whose calls are of every kind, a gate that refuses once, a pull request.

The agent plays back a transcript; everything else is real. Whatever executes anything writes a line outside every
workspace, so that executions are counted and not inferred.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from events.agents import Agent, CommandTool, ModelAgent
from events.project import ProjectSettings, Repository
from events.task import TaskSpecification
from infra.faults.laboratory import PROJECT, Laboratory
from tests.integration import git_examples

TITLE = "Mend the greeting"
SPECIFICATION = TaskSpecification(project=PROJECT, title=TITLE, agent="worker")
FILES = {"greeting.txt": "Helo, world\n", "README.md": "# Greetings\n", "src/one.py": "ONE = 1\n"}


def laboratory(directory: Path, **options: Any) -> Laboratory:
    """A laboratory with that agent and a repository, not started yet."""
    repository = git_examples.repository(directory / "repository", FILES)
    lab_directory = directory / "lab"
    counts = lab_directory / "executions"
    transcript = directory / "transcript.json"
    transcript.write_text(json.dumps(_transcript(counts), indent=1))
    project = ProjectSettings(
        repository=Repository(url=str(repository)),
        prefix=PROJECT,
        test_command=f"echo \"$PWD gate\" >> '{counts}'; grep -qx 'Hello, world' greeting.txt",
    )
    return Laboratory(lab_directory, {"worker": _agent(transcript, counts)}, project, **options)


def _agent(transcript: Path, counts: Path) -> Agent:
    def counted(name: str, more: str) -> tuple[str, ...]:
        return ("/bin/sh", "-c", f"echo \"$CAIRN_CALL_ID {name}\" >> '{counts}'; {more}")

    deployed = counts.parent / "deployed"
    return ModelAgent(
        provider="scripted",
        transcript=str(transcript),
        tools={
            "lookup": CommandTool(
                description="Look something up.", command=counted("lookup", "cat; wc -l < README.md"), effects="none"
            ),
            "tidy": CommandTool(
                description="Tidy up.", command=counted("tidy", "echo tidy >> tidied.txt"), effects="workspace"
            ),
            "announce": CommandTool(description="Tell the world.", command=counted("announce", "echo announced")),
            "reserve": CommandTool(
                description="Reserve a name.", command=counted("reserve", "echo reserved"), retry="idempotent"
            ),
            "deploy": CommandTool(
                description="Deploy it.",
                command=counted("deploy", f"mkdir -p '{deployed}'; touch '{deployed}'/$CAIRN_CALL_ID; echo deployed"),
                retry="probe",
                probe=("/bin/sh", "-c", f"test -e '{deployed}'/$CAIRN_CALL_ID && echo deployed"),
            ),
        },
    )


def _transcript(counts: Path) -> dict[str, Any]:
    def shell(name: str, more: str = "true") -> dict[str, Any]:
        return call("shell", command=f"echo \"$PWD {name}\" >> '{counts}'; {more}")

    careless = [
        turn(
            "I look around.",
            call("read_file", path="greeting.txt"),
            call("list_files"),
            call("search_files", pattern="ONE"),
        ),
        turn(
            "Notes, and a look.",
            call("write_file", path="notes.txt", content="Helo?\n"),
            shell("look", "cat greeting.txt"),
        ),
        turn("", call("edit_file", path="greeting.txt", old="Helo", new="Hallo")),
        turn("", call("lookup", word="greeting")),
        turn("", call("tidy")),
        turn("", call("announce", text="soon")),
        turn("", call("reserve", name="greeting")),
        turn("", call("deploy", version="1")),
        turn(
            "All at once.",
            shell("write", "echo more >> notes.txt"),
            call("announce", text="now"),
        ),
        # Not beside the others: a host that dies when this one ends would end a command of theirs in the middle, and
        # that is executed again.
        turn("", call("read_file", path="README.md")),
        turn("", call("submit", summary="I did not run the tests.")),
    ]
    careful = [
        turn("The gate is right.", call("edit_file", path="greeting.txt", old="Hallo", new="Hello")),
        turn("", shell("check", "cat greeting.txt")),
        turn("", call("submit", summary="The greeting is right.")),
    ]
    return {"turns": careful, "attempts": {"1": careless}}


def turn(text: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "calls": list(calls)}


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": tool, "arguments": arguments}
