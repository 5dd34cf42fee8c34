"""``make soak MINUTES=…``: task after task on real processes, and every few seconds something is killed.

``SEED=s`` chooses what is killed when. At the end, when nothing is killed any more, every task must have ended rightly:
as the one that was left alone, where no tool was lost with its host, and never against what a tool declares.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from infra.embedded import stack_file
from infra.faults.account import Account
from infra.faults.laboratory import VICTIMS, Laboratory
from projections.schema import schema_name
from services.command_line.client import Gateway
from tests.crash.workload import SPECIFICATION, laboratory

TASKS_AT_ONCE = 4
# Seconds between two kills.
PAUSE_SECONDS = (1.0, 4.0)
END_SECONDS = 120.0
LISTS = ("projects", "tasks", "environments", "pull-requests", "deliveries")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """``problems`` by task; ``kills`` and the resolutions of uncertain calls as they were counted."""

    tasks: int
    kills: Counter[str]
    resolutions: Counter[str]
    resumes: int
    seconds: float
    problems: dict[str, list[str]]


async def soak(directory: Path, seconds: float, seed: int) -> Report:
    lab = laboratory(directory)
    began = time.monotonic()
    try:
        await lab.start()
        await lab.undisturbed(SPECIFICATION)
        kills = await _harass(lab, seconds, random.Random(seed))
        await _all_ended(lab)
        accounts = await lab.accounts()
        problems = _problems(accounts)
        if await _rebuilt_differ(lab):
            problems["read models"] = ["they are not what a rebuild makes of the log"]
    finally:
        await lab.stop()
    return Report(
        tasks=len(accounts),
        kills=kills,
        resolutions=Counter(
            resolution for account in accounts.values() for call in account.calls for resolution in call.resolutions
        ),
        resumes=sum(
            count
            for account in accounts.values()
            for text, count in account.recovery.items()
            if '"type":"RunResumed"' in text
        ),
        seconds=time.monotonic() - began,
        problems=problems,
    )


async def _harass(lab: Laboratory, seconds: float, chance: random.Random) -> Counter[str]:
    """Keep some tasks going and kill, until the time is over."""
    deadline = time.monotonic() + seconds
    kills = Counter[str]()

    async def kill() -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))
            victim = chance.choice(VICTIMS)
            kills[victim] += 1
            await lab.kill(victim)

    async def submit() -> None:
        while time.monotonic() < deadline:
            accounts = await lab.accounts()
            for _ in range(TASKS_AT_ONCE - sum(not account.ended for account in accounts.values())):
                await lab.next_task(SPECIFICATION)
            await asyncio.sleep(0.5)

    await asyncio.gather(kill(), submit())
    return kills


async def _all_ended(lab: Laboratory) -> None:
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        if all(account.settled for account in (await lab.accounts()).values()) and lab.is_complete():
            return
        await asyncio.sleep(0.5)


def _problems(accounts: dict[str, Account]) -> dict[str, list[str]]:
    reference, *others = accounts.values()
    found = {account.task: _problems_of(reference, account) for account in others}
    return {task: problems for task, problems in found.items() if problems}


def _problems_of(reference: Account, account: Account) -> list[str]:
    """A task that lost a tool with its host may have been told so; every other one must be as the reference."""
    if not any(call.resolutions for call in account.calls):
        return reference.differences(account)
    problems = account.violations()
    if account.ended != reference.ended:
        problems.append(f"the task ended with {account.ended or 'nothing'}, not {reference.ended}")
    for call in account.calls:
        again = sum(resolution.endswith("execute-again") for resolution in call.resolutions)
        if account.executed(call.id) > 1 + again:
            problems.append(f"{call.tool} {call.id} was executed {account.executed(call.id)} times: {call.resolutions}")
    return problems


async def _rebuilt_differ(lab: Laboratory) -> bool:
    """Whether a rebuild makes something else of the log. What is decided meanwhile makes it begin anew."""
    while True:
        last = await lab.last_sequence()
        told = await _read_models(lab)
        await _rebuild(lab)
        rebuilt = await _read_models(lab)
        if await lab.last_sequence() == last:
            return rebuilt != told


async def _read_models(lab: Laboratory) -> dict[str, Any]:
    """Everything that the read models hold of what there is now."""
    last = await lab.last_sequence()

    def read() -> dict[str, Any]:
        key = (lab.home / "key").read_text(encoding="utf-8").strip()
        with Gateway(lab.url, key) as api:
            api.get("/projects", wait_for=last)
            return {name: api.items(f"/{name}") for name in LISTS}

    return await asyncio.to_thread(read)


async def _rebuild(lab: Laboratory) -> None:
    """Throw the read models away and wait until the projector has made them again."""
    file = stack_file.read(lab.home)
    assert file is not None
    connection = await asyncpg.connect(file.postgres_url)
    try:
        await connection.execute(f"DROP SCHEMA {schema_name('default')} CASCADE")
    finally:
        await connection.close()
    await lab.kill("projector")
    await lab.until(lambda account: lab.is_complete())


def tell(report: Report, seed: int) -> None:
    print(f"{report.tasks} tasks, {report.kills.total()} kills, seed {seed}, {report.seconds:.0f} s")
    print("killed: " + ", ".join(f"{name} {count}×" for name, count in report.kills.most_common()))
    resolutions = ", ".join(f"{name} {count}×" for name, count in report.resolutions.most_common())
    print(f"runs resumed {report.resumes}×; uncertain calls: {resolutions or 'none'}")
    for task, problems in report.problems.items():
        for problem in problems[:10]:
            print(f"{task}: {problem[:600]}")
    print(f"{len(report.problems)} failures")


def main() -> int:
    logging.getLogger("cairn").setLevel(logging.ERROR)  # That connections break is what this is about.
    seed = int(os.environ.get("SEED", "1"))
    directory = Path(tempfile.mkdtemp(prefix="cairn-soak-"))
    report = asyncio.run(soak(directory, 60 * float(os.environ.get("MINUTES", "2")), seed))
    tell(report, seed)
    if report.problems:
        print(f"the logs of the services are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
