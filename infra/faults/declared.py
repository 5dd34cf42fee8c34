"""Whether the tools that an agent declares are what they declare to be.

Every tool is wrapped: the wrapper writes a line before and after each execution, outside of every workspace, and can
be made to linger when the tool has done its work. While it lingers everything of the worker is killed: the tool has
had all its effects, and nobody knows. That is the hardest crash for a tool, and what follows shows what it is:

=========== ==========================================================================================================
declared    what must be seen
=========== ==========================================================================================================
none        the workspace is the same after it
workspace   executed again, from the checkpoint before it, it leaves the same workspace
idempotent  executed again it ends as it did
probe       its probe says that it happened
never       it is not executed again
=========== ==========================================================================================================

What a tool changes in the world outside nobody can see from here: that ``idempotent`` is true of it only its author
knows. A tool that the agent never calls is not tried.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from events.agents import Agent, CommandTool, ModelAgent
from events.task import TaskSpecification
from infra.faults.account import Account, Call
from infra.faults.laboratory import WORKER, Laboratory

TRIAL_SECONDS = 120.0

# $0 is the file that counts, $1 the tool's name, the rest its command.
_WRAPPER = """\
name=$1; shift
echo "$CAIRN_CALL_ID $name" >> "$0"
"$@"; code=$?
echo "$CAIRN_CALL_ID $name $code" >> "$0.done"
while [ -e "$0.linger.$name" ]; do sleep 0.02; done
exit $code
"""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One tool: what it declares, how often a task calls it, how often it was executed in all the disturbed ones, and
    in what it is not what it declares. ``tried`` is false where the agent never called it."""

    tool: str
    effects: str
    retry: str
    tried: bool
    calls: int
    executions: int
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.problems


def wrapped(agent: Agent, executions: Path) -> Agent:
    """The agent with its tools counted in ``executions``."""
    if not isinstance(agent, ModelAgent):
        return agent
    tools = {
        name: msgspec.structs.replace(tool, command=("/bin/sh", "-c", _WRAPPER, str(executions), name, *tool.command))
        for name, tool in agent.tools.items()
    }
    return msgspec.structs.replace(agent, tools=tools)


async def lose_after(
    laboratory: Laboratory, specification: TaskSpecification, tool: str, *, seconds: float = TRIAL_SECONDS
) -> tuple[str, Account]:
    """Do the task, and lose the worker when ``tool`` has done its work for the first time and nobody knows it yet.

    Answers the id of the call, empty where the tool was never called, and what the task came to.
    """
    done, linger = _beside(laboratory.executions, "done"), _beside(laboratory.executions, f"linger.{tool}")
    done.unlink(missing_ok=True)
    linger.touch()
    laboratory.proxy.count()
    try:
        await laboratory.next_task(specification)
        await laboratory.until(lambda account: account.settled or bool(_finished(done, tool)), seconds)
        call = _finished(done, tool)
        if call:
            await laboratory.kill(WORKER)
    finally:
        linger.unlink(missing_ok=True)
    return call, await laboratory.until(lambda account: account.settled and laboratory.is_complete(), seconds)


def judge(tool: str, declared: CommandTool, undisturbed: Account, lost: str, account: Account) -> list[str]:
    """In what a tool is not what it declares, given the task that was left alone, and the one whose worker was lost
    after the call ``lost``."""
    call = next((item for item in account.calls if item.id == lost), None)
    kind = declared.effects if declared.effects != "external" else declared.retry
    problems = []
    if kind == "none" and any(item.changed for item in (*_of(tool, undisturbed), *_of(tool, account))):
        problems.append("declares that it has no effects, and the workspace was another after it")
    if call is None:
        return problems
    if kind == "workspace" and account.trees != undisturbed.trees:
        problems.append("declares that it changes the workspace only; executed again from the same, it left another")
    if kind == "idempotent" and _exits(tool, account) != _exits(tool, undisturbed):
        problems.append("declares that it is idempotent; executed again, it ended otherwise")
    if kind == "probe" and "probed" not in call.resolutions:
        answer = ", ".join(call.resolutions) or "it was not asked"
        problems.append(f"its probe did not tell that the call had happened ({answer})")
    if kind == "never" and account.executed(lost) > 1:
        problems.append(f"declares that it must never be executed again, and was {account.executed(lost)} times")
    return problems


def _of(tool: str, account: Account) -> list[Call]:
    return [call for call in account.calls if call.tool == tool]


def _exits(tool: str, account: Account) -> list[int | None]:
    return [call.exit_code for call in _of(tool, account)]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _finished(done: Path, tool: str) -> str:
    """The id of the first call of the tool that has done its work."""
    lines = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
    return next((line.split()[0] for line in lines if line.split()[1] == tool), "")
