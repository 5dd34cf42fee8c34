"""What models and agents are told."""

from __future__ import annotations

from events.pipeline import Stage
from events.task import TaskSpecification
from services.agent_runner.prompts import system_prompt
from services.scheduler.prompts import FINDINGS_CHARACTERS, prompt

STAGE = Stage(name="development", role="developer")


def specification(**fields: object) -> TaskSpecification:
    return TaskSpecification(**{"project": "shop", "title": "Mend the total", **fields})  # type: ignore[arg-type]


def test_a_task_is_told_in_full() -> None:
    """Everything that a person gave with the task, under its heading, in the order in which it is read."""
    text = prompt(
        specification(
            description="The total ignores discounts.",
            acceptance_criteria=("discounts count", "no new dependency"),
            target_files=("shop/total.py",),
            test_command="pytest -q",
        ),
        Stage(name="development", role="developer", instructions="Keep the public API."),
        "",
        1,
    )

    assert (
        text
        == """\
# Task: Mend the total

The total ignores discounts.

You work on the stage 'development' of this task as its developer.

## Acceptance criteria
- discounts count
- no new dependency

## Files that this is about
- shop/total.py

## How it will be tested
This command, run in the root of the working copy, has to exit with 0:

    pytest -q

## Instructions for this stage
Keep the public API.
"""
    )


def test_a_bare_task_has_no_empty_headings() -> None:
    """What was not given is not mentioned."""
    assert "##" not in prompt(specification(), STAGE, "", 1)


def test_the_projects_test_command_stands_in_for_the_tasks() -> None:
    """The task's own command goes before the project's."""
    assert "    make test\n" in prompt(specification(), STAGE, "", 1, test_command="make test")
    assert "make test" not in prompt(specification(test_command="pytest"), STAGE, "", 1, test_command="make test")


def test_an_attempt_is_told_what_the_one_before_left() -> None:
    """Findings come last, with the number of the attempt."""
    text = prompt(specification(), STAGE, "1 failed: test_total", 2)

    assert "This is attempt 2." in text
    assert text.endswith("1 failed: test_total\n")


def test_long_findings_keep_their_end() -> None:
    """A log tells at its end what went wrong; that its beginning is missing is said."""
    text = prompt(specification(), STAGE, "x" * 10 + "y" * FINDINGS_CHARACTERS, 2)

    assert "the first 10 characters are left out" in text
    assert "x" * 10 not in text
    assert text.endswith("y\n")


def test_the_system_prompt_names_only_tools_that_are_there() -> None:
    """Rules for asking and submitting stand there only with the tools for it."""
    assert "ask_human" in system_prompt(["shell", "ask_human", "submit"])
    assert "ask_human" not in system_prompt(["shell", "submit"])
    assert "call submit" not in system_prompt(["shell"])


def test_an_agents_own_instructions_come_last() -> None:
    """They are the more particular ones, and so prevail."""
    assert system_prompt(["submit"], " Answer in French. ").endswith("Instructions for this agent\nAnswer in French.")
