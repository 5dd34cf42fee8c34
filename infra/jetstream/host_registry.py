"""Signs of life of hosts: each one's last stands in a stream in memory, under ``host.<tenant>.<host>``.

All times are the server's: how long a host has been silent is the difference of two of its own readings, so no two
clocks are compared. The stream may be lost with the server's memory: nobody has been silent for longer than it has
been there.
"""

from __future__ import annotations

from typing import Any

from events import subjects
from events.errors import Transient
from infra.jetstream.direct import StoredMessage, read_from_leader, server_time
from infra.jetstream.requests import Refused, Requests, checked_subject
from infra.ports import HostSign


class JetStreamHostRegistry:
    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant

    def announce(self, host: str, note: bytes = b"") -> None:
        self._requests.send(checked_subject(subjects.host(self._tenant, host)), note)

    async def silent_seconds(self, host: str) -> float:
        return (await self._sign(host)).silent_seconds

    async def _sign(self, host: str) -> HostSign:
        subject = checked_subject(subjects.host(self._tenant, host))
        try:
            last = await read_from_leader(self._requests, subjects.HOSTS, {"last_by_subj": subject})
            info = await self._requests.api(f"STREAM.INFO.{subjects.HOSTS}")
        except Refused as error:
            raise _unknown(error) from error
        return HostSign(_since(last, info), last.data if last is not None else b"")

    async def all(self) -> dict[str, HostSign]:
        everyone = subjects.host(self._tenant, "*")
        try:
            info = await self._requests.api(f"STREAM.INFO.{subjects.HOSTS}", {"subjects_filter": everyone})
        except Refused as error:
            raise _unknown(error) from error
        names = (subject.rpartition(".")[2] for subject in info["state"].get("subjects") or ())
        return {name: await self._sign(name) for name in names}


def _since(last: StoredMessage | None, info: dict[str, Any]) -> float:
    heard_at = last.stored_at if last is not None else server_time(info["created"])
    return max(0.0, (server_time(info["ts"]) - heard_at).total_seconds())


def _unknown(error: Refused) -> Transient:
    return Transient(f"it cannot be seen which hosts are there: {error}", delay_seconds=1.0)
