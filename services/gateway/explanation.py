"""Why a task does not run, from the read models: a pure explanation over rows, and the reading of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from events.agents import Agent, ProgramAgent
from events.breaker import Breaker, credential_of
from events.errors import Invalid
from events.preflight import why_unfit
from events.project import ProjectSettings
from events.task import TaskSpecification
from events.task_state import Question
from infra.ports import Clock, RunLeases
from projections.queries import ReadModels, Row
from projections.task import DivergenceView, StageView
from services.gateway.held_runs import Held, held_now, shown_tasks
from services.gateway.ports import Explanation, Obstacle, OpenReadModels
from services.gateway.preflights import AskPreflights

_ENDED = {"completed", "failed", "blocked", "cancelled"}
_stages = msgspec.json.Decoder(tuple[StageView, ...])
_questions = msgspec.json.Decoder(tuple[Question, ...])
_divergences = msgspec.json.Decoder(tuple[DivergenceView, ...])


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What the read models know about a task and what it competes with. ``needs`` maps the ids of the tasks that it
    depends on to their status; ``running`` are runs of the project's agents, ``running_overall`` counts all.
    ``providers`` and ``programs`` say why its agents' credentials and programs cannot be used now. ``held`` are the
    leases of runs, None where they cannot be seen; ``begun`` says of its runs that have begun when they got further
    last, ``ended`` are those that have ended; ``hosts`` are the workers that are there."""

    task_id: str
    status: str
    reason: str
    stages: tuple[StageView, ...]
    questions: tuple[Question, ...]
    divergences: tuple[DivergenceView, ...] = ()
    needs: Mapping[str, str]
    running: Sequence[str]
    project_limit: int
    running_overall: int
    overall_limit: int
    providers: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    held: Held | None = None
    begun: Mapping[str, datetime] = {}
    ended: Collection[str] = ()
    hosts: tuple[str, ...] = ()
    lease_seconds: float = 0.0


def explain(situation: Situation, now: datetime) -> Explanation:
    """The obstacles of a task, those that a person can do something about first."""
    obstacles: list[Obstacle] = []
    if situation.status not in _ENDED:
        obstacles = [
            *_waits_for_person(situation),
            *_waits_for_tasks(situation),
            *_waits_for_time(situation, now),
            *_waits_for_worker(situation, now),
        ]
        if not obstacles and situation.status == "queued":
            obstacles = [*_waits_for_agent(situation), *_waits_for_slot(situation)]
    return Explanation(
        task_id=situation.task_id,
        status=situation.status,
        summary=_summary(situation, obstacles),
        obstacles=tuple(obstacles),
    )


def _waits_for_person(situation: Situation) -> list[Obstacle]:
    found = [
        Obstacle(kind="needs-input", detail=f"Its agent asks: {question.question}", ids=(question.call_id,))
        for question in situation.questions
        if question.answer is None
    ]
    found += [
        Obstacle(
            kind="diverged",
            detail=f"Its {item.kind} is not as the log tells it: expected {item.expected}, found {item.found}. "
            f"Choose what holds: cairn task resolve {situation.task_id} restore|accept|fork|abandon",
            ids=(item.run_id,),
        )
        for item in situation.divergences
        if not item.choice
    ]
    for stage in situation.stages:
        if stage.status == "awaiting_approval":
            detail = f"Stage {stage.name} waits for somebody to approve it."
            found.append(Obstacle(kind="needs-approval", detail=detail, ids=(stage.name,)))
    return found


def _waits_for_tasks(situation: Situation) -> list[Obstacle]:
    open_needs = {id: status for id, status in situation.needs.items() if status != "completed"}
    if not open_needs:
        return []
    listed = ", ".join(f"{id} ({status})" for id, status in open_needs.items())
    return [Obstacle(kind="dependencies", detail=f"It depends on {listed}.", ids=tuple(open_needs))]


def _waits_for_time(situation: Situation, now: datetime) -> list[Obstacle]:
    return [
        Obstacle(
            kind="retry-at",
            detail=f"Stage {stage.name} is tried again at {stage.retry_at.isoformat()}, after it failed.",
            ids=(stage.name,),
        )
        for stage in situation.stages
        if stage.status == "waiting" and stage.retry_at is not None and stage.retry_at > now
    ]


def _waits_for_worker(situation: Situation, now: datetime) -> list[Obstacle]:
    """The runs that are to go on and that nobody is seen to work on."""
    if situation.held is None:
        return []
    found = []
    for run in [stage.run_id for stage in situation.stages if stage.status == "running"]:
        if run in situation.ended:
            continue  # What it came to is on its way to the task.
        lease = situation.held.get(run)
        if lease is None:
            found.append(Obstacle(kind="no-lease", detail=_unheld(situation, run), ids=(run,)))
        elif lease.silent_seconds > lease.lapses_seconds:
            heard_at = now - timedelta(seconds=lease.silent_seconds)
            detail = (
                f"{lease.runner} on {lease.host} holds {run}, and has not been heard of since {_seconds(heard_at)}; "
                f"unless it is, another worker takes it over in {lease.lapses_seconds:.0f} s."
            )
            found.append(Obstacle(kind="silent-lease", detail=detail, ids=(run,)))
    return found


def _unheld(situation: Situation, run: str) -> str:
    last = situation.begun.get(run)
    if last is None:
        what = f"No worker has taken up {run} yet."
    else:
        what = f"No worker holds the lease of {run}, which got no further since {_seconds(last)}."
    if not situation.hosts:
        return f"{what} None is heard of: it goes on when one is."
    there = ", ".join(situation.hosts)
    return f"{what} It will be taken over within {situation.lease_seconds:g} s by one that has room, of {there}."


def _seconds(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _waits_for_agent(situation: Situation) -> list[Obstacle]:
    found = [Obstacle(kind="breaker-open", detail=f"{reason}.") for reason in situation.providers]
    return found + [Obstacle(kind="preflight", detail=f"{reason}.") for reason in situation.programs]


def _waits_for_slot(situation: Situation) -> list[Obstacle]:
    found = []
    if len(situation.running) >= situation.project_limit:
        count = f"{len(situation.running)} of {situation.project_limit}"
        detail = f"{count} agents of the project run already: {', '.join(situation.running)}."
        found.append(Obstacle(kind="project-limit", detail=detail, ids=tuple(situation.running)))
    if situation.running_overall >= situation.overall_limit:
        detail = f"{situation.running_overall} of {situation.overall_limit} agents of all projects run already."
        found.append(Obstacle(kind="overall-limit", detail=detail))
    return found


def _summary(situation: Situation, obstacles: list[Obstacle]) -> str:
    if obstacles:
        return " ".join(obstacle.detail for obstacle in obstacles)
    if situation.status in _ENDED:
        return situation.reason or f"It has ended: {situation.status}."
    active = [
        f"{stage.name} ({stage.run_id if stage.status == 'running' else stage.check_id})"
        for stage in situation.stages
        if stage.status in ("running", "checking")
    ]
    return (
        f"It runs: {', '.join(active)}." if active else "Nothing stands in its way; it starts as soon as it is placed."
    )


class ReadModelExplainer:
    """``Explainer`` over the read models. ``overall_limit`` is how many agents the scheduler runs at once, ``agents``
    gives those that are configured, and raises ``Invalid`` where they cannot be read. A lease lasts
    ``lease_seconds``."""

    def __init__(
        self,
        read_models: OpenReadModels,
        clock: Clock,
        overall_limit: int,
        agents: Callable[[], Mapping[str, Agent]],
        preflights: AskPreflights,
        leases: RunLeases,
        lease_seconds: float,
    ) -> None:
        self._read_models = read_models
        self._clock = clock
        self._overall_limit = overall_limit
        self._agents = agents
        self._preflights = preflights
        self._leases = leases
        self._lease_seconds = lease_seconds

    async def explain(self, task_id: str) -> Explanation | None:
        models = await self._read_models()
        task = await models.task(task_id)
        if task is None:
            return None
        held = await held_now(self._leases)
        runs = task["run_list"]
        (task,) = await shown_tasks(models, [task], held)
        known = {row["id"]: row["status"] for row in await models.tasks_by_id(task["depends_on"])}
        needs = {id: known.get(id, "unknown") for id in task["depends_on"]}
        queue = await models.queue()
        limits = {row["id"]: row["agents_at_once"] for row in queue["projects"]}
        running = [stage for row in await _active(models.tasks, task["project_id"]) for stage in _running(row)]
        waiting = await self._waiting_agents(models, task)
        now = self._clock.now()
        breakers = {row["id"]: row for row in queue["breakers"]}
        preflights = await self._preflights()
        return explain(
            Situation(
                task_id=task_id,
                status=task["status"],
                reason=task["reason"],
                stages=_stages.decode(task["stages"]),
                questions=_questions.decode(task["questions"]),
                divergences=_divergences.decode(task["divergences"]),
                needs=needs,
                running=running,
                project_limit=limits.get(task["project_id"], 1),
                running_overall=sum(row["running"] + row["starting"] for row in queue["projects"]),
                overall_limit=self._overall_limit,
                providers=_told(_why_no_provider(agent, breakers, now) for agent in waiting),
                programs=_told(why_unfit(_program(agent), preflights) for agent in waiting),
                held=held,
                begun={run["id"]: run["updated_at"] for run in runs if run["started_at"] is not None},
                ended=[run["id"] for run in runs if run["ended_at"] is not None],
                hosts=tuple(preflights),
                lease_seconds=self._lease_seconds,
            ),
            now,
        )

    async def _waiting_agents(self, models: ReadModels, task: Row) -> list[Agent]:
        """The agents, as they are configured, that the waiting stages of the task are for."""
        project = await models.project(task["project_id"])
        if project is None:
            return []
        settings = msgspec.json.decode(project["settings"], type=ProjectSettings)
        asked = msgspec.json.decode(task["specification"], type=TaskSpecification).agent
        try:
            agents = self._agents()
        except Invalid:
            return []
        stages = [stage for stage in _stages.decode(task["stages"]) if stage.status == "waiting" and stage.role]
        names = dict.fromkeys(settings.agent_for(stage.role, asked) for stage in stages)
        return [agents[name] for name in names if name in agents]


def _why_no_provider(agent: Agent, breakers: Mapping[str, Row], now: datetime) -> str:
    credential = credential_of(agent)
    row = breakers.get(credential.id) if credential is not None else None
    if row is None:
        return ""
    breaker = Breaker(
        id=row["id"],
        credential=row["credential"],
        faults=("",) * row["failures"],
        until=row["until"],
        probe=row["probe"],
        cause=row["cause"],
    )
    return breaker.why_not(now, is_probing=bool(row["probe"]))


def _program(agent: Agent) -> str:
    return agent.command[0] if isinstance(agent, ProgramAgent) and agent.command else ""


def _told(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, reasons)))


async def _active(tasks: Callable[..., Any], project: str) -> list[dict[str, Any]]:
    # A task that waits for an answer still holds its agent.
    rows: list[dict[str, Any]] = await tasks(
        project=project, statuses=["running", "needs_input", "diverged", "in_review"]
    )
    return rows


def _running(row: Mapping[str, Any]) -> list[str]:
    return [stage.run_id for stage in _stages.decode(row["stages"]) if stage.status == "running"]
