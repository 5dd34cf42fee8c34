"""Which services take commands: each keeps requests waiting at its durable consumers, and one that has died does not.

The server forgets a request some seconds after the process that made it. Services that take no commands (projector,
notifier) are not seen here.
"""

from __future__ import annotations

from typing import Any

from events import subjects
from events.errors import Transient
from infra.jetstream.requests import Refused, Requests

STREAMS = (subjects.COMMANDS, subjects.RUNS, subjects.CALLS)


class JetStreamTakers:
    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant

    async def all(self) -> dict[str, bool]:
        """The services of this tenant that have ever taken commands: whether one of each does now. Raises
        ``Transient``."""
        found: dict[str, bool] = {}
        for stream in STREAMS:
            for consumer in await self._consumers(stream):
                config = consumer["config"]
                for subject in config.get("filter_subjects") or [config.get("filter_subject", "")]:
                    tokens = subject.split(".")
                    if tokens[:2] == ["cmd", self._tenant]:
                        service = tokens[2]
                        found[service] = found.get(service, False) or consumer["num_waiting"] > 0
        return dict(sorted(found.items()))

    async def _consumers(self, stream: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            try:
                page = await self._requests.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
            except Refused as error:
                message = f"it cannot be seen who takes commands: {error}"
                raise Transient(message, delay_seconds=1.0) from error
            found += page["consumers"] or []
            if not page["consumers"] or len(found) >= page["total"]:
                return found
