"""Processes that print more than anybody reads: they can be ended all the same, and waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from infra.subprocesses import ended
from services.environment_manager.adapters.git import Git
from services.environment_manager.adapters.programs import try_program


async def test_unread_output_does_not_hold_up_the_end() -> None:
    """A process that was killed while nobody read what it printed has ended, and its exit code is known."""
    process = await asyncio.create_subprocess_exec("yes", stdout=asyncio.subprocess.PIPE)
    await asyncio.sleep(0.05)  # in which more is printed than a reader takes in advance
    process.kill()

    assert await ended(process) == -9


async def test_git_that_prints_can_be_cancelled(tmp_path: Path) -> None:
    """At whatever moment somebody stops waiting for it."""
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec yes\n")
    program.chmod(0o755)
    for n in range(30):
        call = asyncio.create_task(Git(str(program)).run("diff"))
        await asyncio.sleep(0.01 + n / 1000)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_git_that_prints_little_more_than_the_limit() -> None:
    """It may have ended by then: what it printed is cut all the same."""
    for _ in range(20):
        answer = await Git().run("--version", limit_bytes=3)
        assert (answer.stdout, answer.truncated) == (b"git", True)


async def test_a_program_that_never_stops_printing() -> None:
    """It is ended, and that it did not end by itself is what is found."""
    found = await try_program("yes", ["--", "a"], answer_seconds=0.5)

    assert found.problem == "`yes -- a` did not end within 0.5 s"
