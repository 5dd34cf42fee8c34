"""A process that works on a workspace is killed at many instants; whoever comes after finds nothing in the way."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import psutil
import pytest

from events.errors import Transient
from services.environment_manager.adapters.workspaces import GitWorkspaces
from services.environment_manager.ports import Prepared
from tests.integration.git_examples import commit, files_in, git, repository, write

WORKER = """
import asyncio, itertools, sys
from pathlib import Path
from services.environment_manager.adapters.workspaces import GitWorkspaces

async def main(home, source):
    workspaces = GitWorkspaces(Path(home))
    for n in itertools.count():
        print("go", flush=True)
        made = await workspaces.prepare("shop-1", source, base_branch="", bases=("topic",))
        for name in range(50):
            (made.workspace / f"f{name}.txt").write_text(f"{n} {name}")
        first = await workspaces.checkpoint("shop-1", "one")
        (made.workspace / "f1.txt").unlink()
        second = await workspaces.checkpoint("shop-1", "two")
        await workspaces.publish(source, second.commit, branch="cairn/shop-1", message="m")
        await workspaces.restore("shop-1", first.commit)
        if n % 2:
            await workspaces.remove("shop-1")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.integration
@pytest.mark.parametrize("with_git", [True, False], ids=["all at once", "git goes on alone"])
async def test_killed_at_any_instant(tmp_path: Path, with_git: bool) -> None:
    """After each kill, everything works at once; nothing recorded is lost and the repository is sound."""
    instants = random.Random(7)
    source, home = repository(tmp_path / "source"), tmp_path / "home"
    git(source, "switch", "--quiet", "--create", "topic")
    commit(source, {"topic.txt": "t"})
    git(source, "switch", "--quiet", "main")
    for round in range(6):
        commit(source, {"main.txt": str(round)})
        await _work_until_killed(home, source, instants.uniform(0.0, 0.4), with_git=with_git)

        workspaces = GitWorkspaces(home)
        made = await _prepared(workspaces, source)
        write(made.workspace, {"after.txt": str(round)})
        checkpoint = await workspaces.checkpoint("shop-1", "after")
        await workspaces.restore("shop-1", made.commit)
        await _published(workspaces, source, checkpoint.commit)

        assert set(files_in(made.workspace)) == {"README.md", "app.py", "main.txt", "topic.txt"}
        assert git(source, "show", "cairn/shop-1:after.txt") == str(round)
    (mirror,) = (home / "repositories").glob("*.git")
    git(mirror, "fsck", "--full", "--strict")


async def _prepared(workspaces: GitWorkspaces, source: Path) -> Prepared:
    """As the consumer does it: what may help later is tried again later (a killed fetch's lock is left for 10 s)."""
    while True:
        try:
            return await workspaces.prepare("shop-1", str(source), base_branch="", bases=("topic",))
        except Transient as error:
            await asyncio.sleep(error.delay_seconds)


async def _published(workspaces: GitWorkspaces, source: Path, commit: str) -> None:
    """As the consumer does it; where the remote's own git was killed too, whoever it belongs to removes its lock."""
    while True:
        (source / ".git" / "refs" / "heads" / "cairn" / "shop-1.lock").unlink(missing_ok=True)
        try:
            await workspaces.publish(str(source), commit, branch="cairn/shop-1", message="m")
        except Transient as error:
            await asyncio.sleep(error.delay_seconds)
        else:
            return


async def _work_until_killed(home: Path, source: Path, seconds: float, *, with_git: bool) -> None:
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, str(home), str(source)), stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"go\n"
    await asyncio.sleep(seconds)
    children = psutil.Process(worker.pid).children(recursive=True) if with_git else []
    worker.send_signal(signal.SIGKILL)
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    await worker.wait()
