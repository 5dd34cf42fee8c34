"""Example values that decider tests start from, and the given/when/then that they are written in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Generic, TypeVar

from events.agents import Limits, ModelAgent
from events.environment import ToolCallStarted
from events.kernel import Entity, Event
from events.pipeline import DEVELOPMENT, Pipeline
from events.project import ProjectSettings, Repository
from events.task import StageResult, StartStage, SubmitTask, TaskSpecification

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = ModelAgent(provider="scripted", transcript="turns.json", limits=Limits(steps=50))
RESULT = StageResult(environment_id="shop-1-development", host="here", commit="c0ffee", summary="done")

S = TypeVar("S")


def settings(*, pipeline: Pipeline = DEVELOPMENT, **changes: object) -> ProjectSettings:
    values: dict[str, object] = {
        "repository": Repository(url="/repositories/shop"),
        "prefix": "shop",
        "test_command": "make test",
        "pipeline": pipeline,
    }
    return ProjectSettings(**{**values, **changes})  # type: ignore[arg-type]


def submit(title: str = "Mend the total", **changes: object) -> SubmitTask:
    values: dict[str, object] = {"project": "shop", "title": title, "agent": "coder"}
    return SubmitTask(specification=TaskSpecification(**{**values, **changes}))  # type: ignore[arg-type]


def start(stage: str = "development") -> StartStage:
    return StartStage(stage=stage, agent_name="coder", agent=AGENT)


class Story(Generic[S]):
    """Given what happened, when something is decided, then these are the events. The state is always the fold."""

    def __init__(self, entity: Entity[S], id: str) -> None:
        self.entity = entity
        self.state = entity.initial(id)
        self.history: list[Event] = []

    def given(self, events: Iterable[Event]) -> Story[S]:
        for event in events:
            self.state = self.entity.evolve(self.state, event)
            self.history.append(event)
        return self

    def when(self, decide: Callable[[S], Sequence[Event]]) -> tuple[Event, ...]:
        """Decide, fold the answer, and make sure that deciding the same again adds nothing."""
        events = tuple(decide(self.state))
        self.given(events)
        return events


def kinds(events: Iterable[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def started_call(id: str) -> ToolCallStarted:
    return ToolCallStarted(call_id=id, run_id="shop-1-development-1", tool="shell")
