"""Placement: what to start next, and for everything else why not. Pure: values in, values out.

A stage starts when its task's dependencies have completed, its time has come, and both its project and the whole
have a slot. Ready ones go in this order: work that was begun earlier first, then by how many tasks wait for it
(each counted once), then by how few it stands upon, then by priority, then by number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime

import msgspec

from events.agents import Agent, Limits, ProgramAgent
from events.breaker import Breaker, credential_of
from events.calls import call_of_check
from events.environment import PublishBranch
from events.errors import Invalid
from events.kernel import Command
from events.pipeline import Stage, find_cycle
from events.preflight import Preflights, why_unfit
from events.project import Project
from events.run import StartRun
from events.task import CheckRequested, RunRequested, TaskCompleted
from events.task_state import Running, Task, Waiting

MAX_DEPENDENCIES = 20
MAX_DEPTH = 50


class Placement(msgspec.Struct, frozen=True):
    """This stage of this task is to run now, with this agent. ``probes`` is the breaker that its run is the probe of,
    empty where it is none."""

    task_id: str
    stage: str
    agent_name: str
    probes: str = ""


class Placed(msgspec.Struct, frozen=True):
    """``waiting`` says for each task that could go on but does not, why; ``wake_at`` when time alone changes it."""

    placements: tuple[Placement, ...]
    waiting: dict[str, str]
    wake_at: datetime | None = None


def place(
    tasks: Mapping[str, Task],
    projects: Mapping[str, Project],
    agents: Mapping[str, Agent],
    *,
    agents_at_once: int,
    now: datetime,
    breakers: Mapping[str, Breaker],
    preflights: Preflights,
) -> Placed:
    """``preflights`` is what the workers found out about the programs of agents."""
    running = _running(tasks)
    total = sum(running.values())
    waiting: dict[str, str] = {}
    placements: list[Placement] = []
    wake_at: datetime | None = None
    probed = {breaker.id for breaker in breakers.values() if is_probing(breaker, tasks)}
    for task, stage in _ordered(tasks):
        reason, retry_at = _obstacle(task, stage, tasks, now)
        agent_name = "" if reason else agent_of(task, stage, projects)
        project = projects.get(_project(task))
        if not reason and agent_name not in agents:
            reason = f"no agent {agent_name!r} is configured" if agent_name else f"no agent for role {stage.role!r}"
        if not reason:
            reason = unfit(agents[agent_name], task, preflights)
        if not reason and total >= agents_at_once:
            reason = f"{total} of {agents_at_once} agents run already"
        if not reason and project is not None and project.settings is not None:
            limit = project.settings.agents_at_once
            if running[project.id] >= limit:
                reason = f"{running[project.id]} of {limit} agents of project {project.id} run already"
        breaker = None if reason else _open_breaker(agents[agent_name], breakers)
        if breaker is not None and breaker.until is not None:
            reason, retry_at = breaker.why_not(now, is_probing=breaker.id in probed), breaker.until
        if retry_at is not None and retry_at > now and (wake_at is None or retry_at < wake_at):
            wake_at = retry_at
        if reason:
            waiting.setdefault(task.id, f"stage {stage.name}: {reason}")
            continue
        probes = breaker.id if breaker is not None else ""
        probed.add(probes)
        placements.append(Placement(task.id, stage.name, agent_name, probes))
        running[_project(task)] += 1
        total += 1
    return Placed(tuple(placements), waiting, wake_at)


def has_room(
    placement: Placement, tasks: Mapping[str, Task], projects: Mapping[str, Project], *, agents_at_once: int
) -> bool:
    """Whether the limits still allow one more agent for the task: others may have been started since it was placed."""
    running = _running(tasks)
    project = projects.get(_project(tasks[placement.task_id]))
    limit = project.settings.agents_at_once if project is not None and project.settings is not None else agents_at_once
    return running.total() < agents_at_once and (project is None or running[project.id] < limit)


def agent_of(task: Task, stage: Stage, projects: Mapping[str, Project]) -> str:
    """The name of the agent that does the stage's part."""
    assert task.submitted is not None
    asked = task.submitted.specification.agent
    project = projects.get(_project(task))
    return project.settings.agent_for(stage.role, asked) if project and project.settings else asked or stage.role


def is_probing(breaker: Breaker, tasks: Mapping[str, Task]) -> bool:
    """Whether the breaker's probe is a run that a task asks for: one that has ended without a word probes no more."""
    return bool(breaker.probe) and any(breaker.probe in task.requests for task in tasks.values())


def _open_breaker(agent: Agent, breakers: Mapping[str, Breaker]) -> Breaker | None:
    """The breaker that keeps the agent from its provider; None where nothing does."""
    credential = credential_of(agent) if breakers else None
    breaker = breakers.get(credential.id) if credential is not None else None
    return breaker if breaker is not None and breaker.until is not None else None


def unfit(agent: Agent, task: Task, preflights: Preflights) -> str:
    """Why the agent's program cannot be run on any worker, as far as they say; of what is in containers they do not
    know."""
    assert task.submitted is not None
    if not isinstance(agent, ProgramAgent) or not agent.command or task.submitted.isolation == "container":
        return ""
    return why_unfit(agent.command[0], preflights)


def _running(tasks: Mapping[str, Task]) -> Counter[str]:
    """How many agents run in each project."""
    return Counter(_project(task) for task in tasks.values() for _ in _running_stages(task))


def _project(task: Task) -> str:
    assert task.submitted is not None
    return task.submitted.specification.project


def _running_stages(task: Task) -> list[str]:
    if task.ended is not None:
        return []
    return [name for name, state in task.stages.items() if isinstance(state.position, Running)]


def _obstacle(task: Task, stage: Stage, tasks: Mapping[str, Task], now: datetime) -> tuple[str, datetime | None]:
    """Why the stage cannot start, whatever slots are free; with the time from which it can, where that is all."""
    assert task.submitted is not None
    for dependency in task.submitted.specification.depends_on:
        other = tasks.get(dependency)
        if other is None or not isinstance(other.ended, TaskCompleted):
            return f"waits for task {dependency}, which is {other.status if other else 'unknown'}", None
    position = task.stages[stage.name].position
    if isinstance(position, Waiting) and position.retry_at is not None and position.retry_at > now:
        return f"tries again at {position.retry_at:%Y-%m-%d %H:%M:%S} UTC", position.retry_at
    return "", None


def _ordered(tasks: Mapping[str, Task]) -> list[tuple[Task, Stage]]:
    ready = [(task, stage) for task in tasks.values() for stage in task.ready_stages() if stage.role]
    if not ready:
        return []
    unblocks = unblocked(tasks)
    depths: dict[str, int] = {}

    def key(item: tuple[Task, Stage]) -> tuple[bool, int, int, int, str, int, str]:
        task, stage = item
        assert task.submitted is not None
        specification = task.submitted.specification
        begun = any(state.attempt for state in task.stages.values())
        return (
            not begun,
            -len(unblocks[task.id]),
            depth(task.id, tasks, depths),
            -specification.priority,
            specification.project,
            task.submitted.number,
            stage.name,
        )

    return sorted(ready, key=key)


def unblocked(tasks: Mapping[str, Task]) -> dict[str, frozenset[str]]:
    """Task → the unfinished tasks that wait for it, directly or through others, each once."""
    waiters: dict[str, set[str]] = defaultdict(set)
    for task in tasks.values():
        if task.submitted is not None and task.ended is None:
            for dependency in task.submitted.specification.depends_on:
                waiters[dependency].add(task.id)
    found: dict[str, frozenset[str]] = {}
    for task_id in tasks:
        seen: set[str] = set()
        stack = list(waiters.get(task_id, ()))
        while stack:
            other = stack.pop()
            if other not in seen:
                seen.add(other)
                stack.extend(waiters.get(other, ()))
        found[task_id] = frozenset(seen)
    return found


def depth(task_id: str, tasks: Mapping[str, Task], known: dict[str, int]) -> int:
    """How many tasks stand one upon another below this one."""
    if task_id not in known:
        task = tasks.get(task_id)
        depends_on = task.submitted.specification.depends_on if task is not None and task.submitted else ()
        known[task_id] = 0  # A circle cannot be submitted; this ends the recursion all the same.
        known[task_id] = 1 + max((depth(other, tasks, known) for other in depends_on), default=-1)
    return known[task_id]


def check_dependencies(new: str, project: str, depends_on: tuple[str, ...], tasks: Mapping[str, Task]) -> None:
    """Raise ``Invalid`` where a new task's dependencies cannot be: unknown, of another project, itself, a circle,
    too many, too deep."""
    if len(depends_on) > MAX_DEPENDENCIES:
        message = f"a task depends on at most {MAX_DEPENDENCIES} others; this one names {len(depends_on)}."
        raise Invalid(message, slug="too-many-dependencies")
    for other in depends_on:
        if other == new:
            message = f"task {new} cannot depend on itself: {new} → {new}."
            raise Invalid(message, slug="dependency-cycle")
        if other not in tasks:
            message = f"there is no task {other!r} to depend on."
            raise Invalid(message, slug="unknown-dependency")
        if _project(tasks[other]) != project:
            message = f"task {other} belongs to project {_project(tasks[other])}: depend on tasks of {project} only."
            raise Invalid(message, slug="foreign-dependency")
    edges = {task.id: task.submitted.specification.depends_on for task in tasks.values() if task.submitted is not None}
    cycle = find_cycle({**edges, new: depends_on})
    if cycle:
        message = f"these tasks would wait for one another for ever: {' → '.join(cycle)}."
        raise Invalid(message, slug="dependency-cycle")
    known: dict[str, int] = {}
    if 1 + max((depth(other, tasks, known) for other in depends_on), default=-1) > MAX_DEPTH:
        message = f"dependencies may be at most {MAX_DEPTH} deep."
        raise Invalid(message, slug="dependencies-too-deep")


# ---- what the state of a task asks of other services


def command_for(task: Task, request: RunRequested | CheckRequested) -> Command:
    """The command that a request of a task stands for: derivable again at any time."""
    assert task.submitted is not None
    submitted = task.submitted
    if isinstance(request, RunRequested):
        return StartRun(
            task_id=task.id,
            stage=request.stage,
            attempt=request.attempt,
            environment_id=request.environment_id,
            agent_name=request.agent_name,
            agent=request.agent,
            prompt=request.prompt,
            limits=limits(
                request.agent.limits, submitted.pipeline.stage(request.stage), submitted.specification.budget
            ),
            repository_url=submitted.repository.url,
            base_branch=submitted.repository.base_branch,
            bases=request.bases,
            sources=request.sources,
            forked_from=request.forked_from,
            restore=request.restore,
            restore_source=request.restore_source,
            host=request.host,
            secrets=submitted.secrets,
            isolation=submitted.isolation,
            sandbox=submitted.sandbox,
            on_divergence=submitted.on_divergence,
            groups=submitted.pipeline.stage(request.stage).tools,
        )
    if request.kind == "pull_request":
        return PublishBranch(
            task_id=task.id,
            stage=request.stage,
            check_id=request.check_id,
            commit=request.commit,
            title=submitted.specification.title,
            description=description(task),
        )
    return call_of_check(request, task.id)


def description(task: Task) -> str:
    """The body of a task's pull request: what was asked, and what the agents say that they did."""
    assert task.submitted is not None
    specification = task.submitted.specification
    parts = [specification.description]
    if specification.acceptance_criteria:
        parts.append("\n".join(["Acceptance criteria:", *(f"- {item}" for item in specification.acceptance_criteria)]))
    parts += [state.result.summary for name, state in task.stages.items() if task.submitted.pipeline.stage(name).role]
    return "\n\n".join(part for part in (*parts, f"Task {task.id}") if part)


def limits(agent: Limits, stage: Stage, budget: Limits | None) -> Limits:
    """The narrowest of what the agent, the stage and the task allow; 0 is no limit."""
    allowed = [agent, *([budget] if budget is not None else [])]

    def least(values: list[float]) -> float:
        return min((value for value in values if value > 0), default=0)

    return Limits(
        steps=int(least([item.steps for item in allowed])),
        tokens=int(least([item.tokens for item in allowed])),
        seconds=least([*(item.seconds for item in allowed), stage.time_limit_seconds]),
        idle_seconds=least([*(item.idle_seconds for item in allowed), stage.idle_limit_seconds]),
        cost_usd=least([item.cost_usd for item in allowed]),
    )
