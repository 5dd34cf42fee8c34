"""An agent of a user's own under the crash matrix: first alone, then disturbed, then each of its tools.

The agent is asked once. What its model said is recorded and played back ever after, so that all tasks do the same and
nothing more is paid for. Two tasks are left alone before any is disturbed: what differs between those (times that a
tool prints, say) is not the crash's doing, and is not compared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from events.agents import Agent, CommandTool, ModelAgent
from events.errors import CairnError
from events.task import TaskCompleted, TaskSpecification
from events.tools import declared_by
from infra.faults.account import Account
from infra.faults.declared import Finding, judge, lose_after, wrapped
from infra.faults.laboratory import HANDLER, PROJECT, WORKER, Laboratory
from infra.faults.matrix import Verdict, disturb, points, sampled

AGENT = "agent"
PLAYED = "played"
UNDISTURBED_SECONDS = 3600.0


class NothingToDisturb(CairnError):
    """The task does not end well even where it is left alone."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """``appends`` is how many points the log of the task has; ``compared`` says what was compared of two tasks."""

    appends: int
    calls: int
    compared: str
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        return not any(verdict.problems for verdict in self.verdicts) and all(item.holds for item in self.findings)


async def try_agent(
    laboratory: Laboratory, agent: Agent, title: str, *, count: int, seed: int, say: Callable[[str], None]
) -> Report:
    """``laboratory`` runs and knows ``agent``, wrapped, as ``AGENT``. ``say`` hears of the progress."""
    alone = TaskSpecification(project=PROJECT, title=title, agent=AGENT)
    say("the agent alone")
    first = await laboratory.undisturbed(alone, seconds=UNDISTURBED_SECONDS)
    if first.account.ended != TaskCompleted.__name__:
        message = (
            f"Left alone, the task ends with {first.account.ended or 'nothing'}: there must be a task that the agent "
            f"completes. Give another one with --task. The logs are in {laboratory.home / 'logs'}."
        )
        raise NothingToDisturb(message)
    specification = await _played(laboratory, agent, alone)
    say("the same again, twice")
    reference = await laboratory.undisturbed(specification)
    again = await laboratory.undisturbed(specification)
    differences, compared = _comparison(reference.account, again.account)
    chosen = sampled(points(reference.certain_appends, (HANDLER, WORKER)), count, seed)
    verdicts = []
    async for verdict in disturb(laboratory, specification, chosen, differences):
        verdicts.append(verdict)
        say(f"{len(verdicts)} of {len(chosen)} crashes: {verdict.point}{', FAILED' if verdict.problems else ''}")
    executed = Counter[str]()
    for verdict in verdicts:
        executed.update({line.split()[-1]: count for line, count in verdict.trial.account.executions.items()})
    findings = []
    for name, tool in declared_by(agent).items():
        say(f"{name}, whose worker is lost when it is done")
        findings.append(await _find(laboratory, specification, name, tool, reference.account, executed[name]))
    return Report(
        appends=reference.certain_appends,
        calls=len(reference.account.calls),
        compared=compared,
        verdicts=tuple(verdicts),
        findings=tuple(findings),
    )


async def _played(laboratory: Laboratory, agent: Agent, alone: TaskSpecification) -> TaskSpecification:
    """The same task for an agent that says what this one said."""
    if not isinstance(agent, ModelAgent):
        return alone
    transcript = Path(laboratory.directory) / "transcript.json"
    transcript.write_text(json.dumps(await laboratory.recorded(), indent=1), encoding="utf-8")
    tools = declared_by(wrapped(agent, laboratory.executions))
    played = ModelAgent(
        provider="scripted",
        transcript=str(transcript),
        instructions=agent.instructions,
        limits=agent.limits,
        secrets=agent.secrets,
        tools=tools,
    )
    laboratory.add_agent(PLAYED, played)
    return msgspec.structs.replace(alone, agent=PLAYED)


def _comparison(one: Account, other: Account) -> tuple[Callable[[Account], list[str]], str]:
    """What to compare with the undisturbed task, and that in words."""
    if not one.differences(other):
        return one.differences, "events, conversations, trees and executions"

    def coarse(account: Account) -> list[str]:
        problems = account.violations()
        if account.ended != one.ended:
            problems.append(f"the task ended with {account.ended or 'nothing'}, not {one.ended}")
        if one.trees == other.trees and account.trees != one.trees:
            problems.append("the workspace is another at the end")
        return problems

    trees = " and trees" if one.trees == other.trees else ""
    return coarse, f"ends of calls and of the task{trees}: what the tools print is another each time"


async def _find(
    laboratory: Laboratory,
    specification: TaskSpecification,
    name: str,
    tool: CommandTool,
    undisturbed: Account,
    executed: int,
) -> Finding:
    lost, account = await lose_after(laboratory, specification, name)
    problems = judge(name, tool, undisturbed, lost, account) if lost else []
    if account.ended != undisturbed.ended:
        problems.append(f"after that the task ended with {account.ended or 'nothing'}")
    mine = sum(count for line, count in account.executions.items() if line.split()[-1] == name)
    return Finding(
        tool=name,
        effects=tool.effects,
        retry=tool.retry,
        tried=bool(lost),
        calls=sum(call.tool == name for call in undisturbed.calls),
        executions=executed + mine,
        problems=tuple(problems),
    )
