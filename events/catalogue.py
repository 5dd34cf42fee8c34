"""Every command and event there is, collected from the entity modules; a name used twice refuses to import."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Union

from events import (
    breaker,
    chaos,
    checkpoints,
    delivery,
    environment,
    experiment,
    project,
    pull_request,
    requests,
    run,
    systems,
    task,
    task_state,
)
from events.kernel import Command, Entity, Event, Message

MODULES: tuple[ModuleType, ...] = (
    project,
    task,
    breaker,
    run,
    environment,
    requests,
    systems,
    checkpoints,
    pull_request,
    delivery,
    experiment,
    chaos,
)


def _collect(kind: type[Message]) -> dict[str, type[Message]]:
    found: dict[str, type[Message]] = {}
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__:
                if value.__name__ in found:
                    message = f"two messages are named {value.__name__}"
                    raise ImportError(message)
                found[value.__name__] = value
    return found


EVENTS = _collect(Event)
COMMANDS = _collect(Command)

ENTITIES: dict[str, Entity[Any]] = {
    entity.name: entity
    for entity in (
        project.PROJECT,
        task_state.TASK,
        breaker.BREAKER,
        run.RUN,
        environment.ENVIRONMENT,
        pull_request.PULL_REQUEST,
        delivery.DELIVERY,
        experiment.EXPERIMENT,
        chaos.CHAOS,
    )
}

if TYPE_CHECKING:
    AnyEvent = Event
    AnyCommand = Command
else:
    # The decoder needs the closed union of all concrete types, the type checker their common base.
    AnyEvent = Union[tuple(EVENTS.values())]  # noqa: UP007
    AnyCommand = Union[tuple(COMMANDS.values())]  # noqa: UP007
