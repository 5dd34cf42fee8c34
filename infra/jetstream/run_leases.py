"""Leases to be seen: one message a run in a stream in memory, which the server removes when the lease lapses.

The time that a lease lasts goes with its message (``Nats-TTL``, whole seconds), so no two clocks are compared. A run
that is released has an empty message until that lapses too. After a restart of the server every lease is missing until
its holder says it again.
"""

from __future__ import annotations

import logging
import math

import msgspec

from events import subjects
from events.errors import Transient
from events.kernel import replace
from infra.jetstream.direct import read_all, server_time
from infra.jetstream.requests import Refused, Requests, checked_subject, header_block, header_value
from infra.ports import RunLease

logger = logging.getLogger("cairn.jetstream")

_decode = msgspec.json.Decoder(RunLease).decode


class JetStreamRunLeases:
    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant

    def hold(self, lease: RunLease, seconds: float) -> None:
        self._say(lease.run_id, msgspec.json.encode(lease), seconds)

    def release(self, run_id: str) -> None:
        self._say(run_id, b"", 1.0)

    async def held(self) -> dict[str, RunLease]:
        try:
            found = await read_all(self._requests, subjects.LEASES, subjects.lease(self._tenant, "*"))
            info = await self._requests.api(f"STREAM.INFO.{subjects.LEASES}")
        except Refused as error:
            message = f"it cannot be seen which runs are held: {error}"
            raise Transient(message) from error
        now = server_time(info["ts"])
        leases: dict[str, RunLease] = {}
        for item in found:
            if not item.data:
                continue
            try:
                lease = _decode(item.data)
            except msgspec.MsgspecError:
                logger.warning("message %d of %s is skipped: it is no lease", item.sequence, subjects.LEASES)
                continue
            silent_seconds = max(0.0, (now - item.stored_at).total_seconds())
            lapses_seconds = max(0.0, float(header_value(item.headers, b"Nats-TTL") or 0) - silent_seconds)
            leases[lease.run_id] = replace(lease, silent_seconds=silent_seconds, lapses_seconds=lapses_seconds)
        return leases

    def _say(self, run_id: str, data: bytes, seconds: float) -> None:
        lasts = header_block(("Nats-TTL", str(max(1, math.ceil(seconds)))))
        self._requests.send(checked_subject(subjects.lease(self._tenant, run_id)), data, lasts)
