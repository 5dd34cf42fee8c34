"""What must hold of workspaces and checkpoints in the end: the part of ``checkers`` that reads the world's commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from events.environment import CallEnd, EnvironmentMoved, EnvironmentPrepared, ToolCallCompleted
from events.run import ToolCallRequested
from tests.simulation.workload import written_path
from tests.simulation.world import MARKS, tree_of

if TYPE_CHECKING:
    from tests.simulation.checkers import Seen


def checkpoints_hold_what_calls_did(seen: Seen) -> Iterator[str]:
    """A checkpoint has the tree that the log names. Whoever completed left its marks once, in its own checkpoint and
    in every later one of the environment."""
    asked = {event.call_id: event for event in seen.events("run") if isinstance(event, ToolCallRequested)}
    for id, environment in seen.environments.items():
        done: list[str] = []
        bases: tuple[str, ...] = ()
        for event in seen.events("environment", id):
            if isinstance(event, EnvironmentMoved):
                held = seen.world.commits.get(event.checkpoint, {}).get(MARKS, "").splitlines()
                done = [name for name in done if f"end {name}" in held]
            if isinstance(event, EnvironmentPrepared):
                if event.bases != bases:  # Made anew: what it began from is not the work of its task any more.
                    done, bases = [], event.bases
                yield from _wrong_checkpoint(seen, event.commit, event.tree, done)
            if isinstance(event, CallEnd) and event.checkpoint:
                call = asked.get(event.call_id)
                if isinstance(event, ToolCallCompleted) and call is not None and call.tool in ("shell", "write_file"):
                    done.append(_mark(call))
                yield from (f"{id}: {it}" for it in _wrong_checkpoint(seen, event.checkpoint, event.tree, done))
        standing = [host.workspaces[id] for host in seen.world.hosts.values() if id in host.workspaces]
        for workspace in standing:
            if tree_of(workspace.files) != environment.tree and not workspace.changed_by_hand:
                yield f"{id} stands with {tree_of(workspace.files)}; its last checkpoint is {environment.tree}"


def _mark(call: ToolCallRequested) -> str:
    if call.tool == "write_file":
        return written_path(call)
    return call.call_id


def _wrong_checkpoint(seen: Seen, commit: str, tree: str, done: list[str]) -> Iterator[str]:
    files = seen.world.commits.get(commit)
    if files is None:
        yield f"checkpoint {commit} is not there"
        return
    if tree_of(files) != tree:
        yield f"checkpoint {commit} holds {tree_of(files)}, the log says {tree}"
    marks = Counter(files.get(MARKS, "").splitlines())
    for name in done:
        if marks[f"begin {name}"] != 1 or marks[f"end {name}"] != 1:
            begun, ended = marks[f"begin {name}"], marks[f"end {name}"]
            yield f"checkpoint {commit} shows that {name} began {begun} and ended {ended} times"


def checkpoints_are_kept(seen: Seen) -> Iterator[str]:
    """Those of every environment that the log has, on each host that it lived on; none that the log does not have."""
    hosts = seen.world.hosts
    lived: set[tuple[str, str]] = set()
    for record in seen.records:
        for event in record.envelope.events:
            if isinstance(event, EnvironmentPrepared | EnvironmentMoved):
                lived.add((event.host, record.envelope.entity_id))
    for host, id in sorted(lived):
        if id not in hosts[host].refs:
            yield f"the checkpoints of {id} are gone from {host}"
    explained = {id for _, id in lived}
    for name, machine in hosts.items():
        for id in sorted(set(machine.refs) - explained):
            yield f"checkpoints of {id} are left on {name}, though the log does not have it"


def work_begins_from_that_of_dependencies(seen: Seen) -> Iterator[str]:
    """Whatever a task depends on is in the workspace that its first agent begins with, published or not."""
    for id, task in seen.tasks.items():
        assert task.submitted is not None
        depends_on = task.submitted.specification.depends_on
        events = seen.events("environment", f"{id}-development")
        prepared = next((event for event in events if isinstance(event, EnvironmentPrepared)), None)
        if prepared is None or task.submitted.forked_from is not None:
            continue
        files = seen.world.commits[prepared.commit]
        for other in depends_on:
            work = seen.world.commits[seen.tasks[other].stages["test"].result.commit]
            # Of several, the last one's marks are there: the twin of git merges no files.
            lost = [name for name in work if name not in files or (len(depends_on) == 1 and files[name] != work[name])]
            if lost:
                yield f"{id} begins without {', '.join(lost)} of {other}"
