"""How calls end, as events: what the end of a process means for the log, and for the gate that asked."""

from __future__ import annotations

import asyncio
import hashlib

from events.content import Content
from events.environment import (
    CallEnd,
    ExecuteTool,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    WorkspaceDiverged,
)
from events.task import ReportDivergence
from events.tools import RUN_EXPERIMENT
from services.environment_manager.operations import Done
from services.environment_manager.ports import Exit

# How much of what a process printed is its result.
CONTENT_LIMIT_BYTES = 30_000


def ended(command: ExecuteTool, exit: Exit, content: Content, interrupted: str) -> CallEnd:
    """How a process ended, as the event that ends its call. ``interrupted`` says why, where it was."""
    if exit.cause == "interrupted":
        return ToolCallInterrupted(
            call_id=command.call_id, run_id=command.run_id, tool=command.tool, reason=interrupted
        )
    truncated = exit.output_bytes > CONTENT_LIMIT_BYTES
    if exit.cause in ("exited", "signalled"):
        return ToolCallCompleted(
            call_id=command.call_id,
            run_id=command.run_id,
            tool=command.tool,
            duration_ms=exit.duration_ms,
            content=content,
            exit_code=exit.code,
            output_bytes=exit.output_bytes,
            truncated=truncated,
        )
    return ToolCallFailed(
        call_id=command.call_id,
        run_id=command.run_id,
        tool=command.tool,
        cause=exit.cause,
        detail=exit.detail,
        duration_ms=exit.duration_ms,
        content=content,
        exit_code=exit.code,
        output_bytes=exit.output_bytes,
        truncated=truncated,
    )


def verdict(ended: CallEnd) -> tuple[bool | None, str]:
    """Whether a check passed, None where it could not be evaluated, and that in a sentence."""
    if isinstance(ended, ToolCallInterrupted):
        return None, f"The check was interrupted: {ended.reason}."
    if ended.tool == RUN_EXPERIMENT:
        return _resilience(ended)
    if isinstance(ended, ToolCallCompleted):
        if ended.exit_code == 0:
            return True, "The tests pass."
        # 126 and 127 are the shell's: the command cannot be executed, or is not found (POSIX, 2.8.2).
        if ended.exit_code in (126, 127):
            return None, f"The test command could not be run (exit code {ended.exit_code})."
        return False, f"The tests fail (exit code {ended.exit_code})."
    if ended.cause in ("timed-out", "idle", "output-limit", "out-of-memory"):
        return False, f"The tests were ended: {ended.cause}. {ended.detail}".strip()
    return None, f"The tests could not be run: {ended.cause}. {ended.detail}".strip()


def _resilience(ended: ToolCallCompleted | ToolCallFailed) -> tuple[bool | None, str]:
    """As ``experiments.report`` ends the call of an experiment."""
    if isinstance(ended, ToolCallFailed):
        return None, f"The experiment gave no answer: {ended.cause}. {ended.detail}".strip()
    if ended.exit_code == 0:
        return True, "The system holds under faults."
    return False, "The system does not hold under faults."


def divergence(command: ExecuteTool, diverged: WorkspaceDiverged) -> ReportDivergence:
    """What a check that cannot begin says of its workspace: the same words for the same find."""
    digest = hashlib.sha256(f"{diverged.expected} {diverged.found}".encode()).hexdigest()[:12]
    return ReportDivergence(
        run_id=command.call_id,
        divergence_id=f"{command.call_id}-d-{digest}",
        kind=diverged.kind,
        expected=diverged.expected,
        found=diverged.found,
        diff=diverged.diff,
    )


def done(command: ExecuteTool, done: Done, content: Content, *, output_bytes: int, duration_ms: int) -> CallEnd:
    """What an operation came to, as the event that ends its call."""
    if done.cause:
        return ToolCallFailed(
            call_id=command.call_id,
            run_id=command.run_id,
            tool=command.tool,
            cause=done.cause,
            detail=done.detail,
            duration_ms=duration_ms,
            content=content,
            exit_code=done.exit_code,
            output_bytes=output_bytes,
        )
    return ToolCallCompleted(
        call_id=command.call_id,
        run_id=command.run_id,
        tool=command.tool,
        duration_ms=duration_ms,
        content=content,
        exit_code=done.exit_code,
        output_bytes=output_bytes,
    )


def since(began: float) -> int:
    """Milliseconds since ``began``, a time of the event loop."""
    return round((asyncio.get_running_loop().time() - began) * 1000)


def failed(command: ExecuteTool, cause: str, detail: str, began: float) -> ToolCallFailed:
    return ToolCallFailed(
        call_id=command.call_id,
        run_id=command.run_id,
        tool=command.tool,
        cause=cause,
        detail=detail,
        duration_ms=since(began),
    )


def interrupted(command: ExecuteTool, reason: str) -> ToolCallInterrupted:
    return ToolCallInterrupted(call_id=command.call_id, run_id=command.run_id, tool=command.tool, reason=reason)
