"""One view of the log for all runs of a process: records of environments, tasks and breakers, handed to whom
they concern."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from events.breaker import BREAKER
from events.envelope import Recorded
from events.environment import ENVIRONMENT
from events.task_state import TASK
from infra.ports import EventLog, Following

Receiver = Callable[[Recorded], None]


class Watch:
    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._receivers: dict[tuple[str, str], list[Receiver]] = defaultdict(list)

    async def start(self) -> Following:
        return await self._log.follow(
            self._deliver, after=await self._log.last_sequence(), entities=(ENVIRONMENT.name, TASK.name, BREAKER.name)
        )

    def add(self, entity: str, id: str, receiver: Receiver) -> None:
        self._receivers[entity, id].append(receiver)

    def remove(self, entity: str, id: str, receiver: Receiver) -> None:
        receivers = self._receivers[entity, id]
        receivers.remove(receiver)
        if not receivers:
            del self._receivers[entity, id]

    def _deliver(self, record: Recorded) -> None:
        for receiver in tuple(self._receivers.get((record.envelope.entity, record.envelope.entity_id), ())):
            receiver(record)
