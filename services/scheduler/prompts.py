"""What an agent is told about its task: plain text, the same for every kind of agent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from events.pipeline import Stage
from events.task import TaskSpecification

# Findings hold the end of a log as a rule; what is longer would crowd out the task itself.
FINDINGS_CHARACTERS = 16_000


def prompt(
    specification: TaskSpecification, stage: Stage, findings: str, attempt: int, *, test_command: str = ""
) -> str:
    """The prompt of one attempt at one stage. ``findings`` is what an earlier attempt or a gate left to be mended,
    ``test_command`` what the tests will be run with where the specification names none."""
    command = specification.test_command or test_command
    parts = [
        f"# Task: {specification.title}",
        specification.description.strip(),
        _role(stage),
        _list("Acceptance criteria", specification.acceptance_criteria),
        _list("Files that this is about", specification.target_files),
        f"## How it will be tested\nThis command, run in the root of the working copy, has to exit with 0:\n\n"
        f"    {command}"
        if command
        else "",
        _section("Instructions for this stage", stage.instructions),
        _earlier(findings, attempt),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def fork_prompt(task_prompt: str, wanted: str, findings: str, attempt: int, *, has_heard: bool) -> str:
    """What the agent of a fork is told. One that ``has_heard`` the conversation up to the fork is told only what is
    ``wanted`` from there, and what an earlier attempt left; empty where that is nothing."""
    parts = [wanted.strip(), _earlier(findings, attempt)] if has_heard else [task_prompt.strip(), wanted.strip()]
    text = "\n\n".join(part for part in parts if part)
    return text + "\n" if text else ""


def _role(stage: Stage) -> str:
    return f"You work on the stage {stage.name!r} of this task as its {stage.role}." if stage.role else ""


def _list(heading: str, items: Sequence[str]) -> str:
    return f"## {heading}\n" + "\n".join(f"- {item}" for item in items) if items else ""


def _section(heading: str, text: str) -> str:
    return f"## {heading}\n{text.strip()}" if text.strip() else ""


def _earlier(findings: str, attempt: int) -> str:
    if not findings.strip():
        return ""
    text = findings.strip()
    if len(text) > FINDINGS_CHARACTERS:
        text = f"[… the first {len(text) - FINDINGS_CHARACTERS} characters are left out]\n{text[-FINDINGS_CHARACTERS:]}"
    return (
        f"## What an earlier attempt left\nThis is attempt {attempt}. The working copy holds what was done before; "
        f"look at it first, and mend what follows:\n\n{text}"
    )
