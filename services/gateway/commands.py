"""Sends commands and waits for what becomes of them.

A command's id is random, or follows from the ``Idempotency-Key``, who sent it and to what: the same request sent
again is then the same command, which its decider recognises. Within this process the answer is remembered too, and a
repeat that comes while the first one waits shares its answer; JetStream hands a repeat over only once in two minutes,
so that a repeat of a command whose outcome this process never learned gets 202 again.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import OrderedDict

import msgspec

from events import subjects
from events.envelope import CommandEnvelope, Outcome
from events.kernel import Command
from infra.ports import Clock, CommandBus
from infra.telemetry import current_trace
from services.gateway.answers import Problem

REMEMBERED = 10_000
LONGEST_KEY = 255


class Wish(msgspec.Struct, frozen=True):
    """A command, the entity it is for, and the service that decides it, on ``target`` where that is one host's."""

    service: str
    entity: str
    entity_id: str
    command: Command
    target: str = subjects.ANY


class Asked(msgspec.Struct, frozen=True):
    """``outcome`` is None where it is not known in time."""

    command_id: str
    outcome: Outcome | None


class Commands:
    def __init__(self, bus: CommandBus, clock: Clock, *, tenant: str, timeout_seconds: float) -> None:
        self._bus = bus
        self._clock = clock
        self._tenant = tenant
        self._timeout_seconds = timeout_seconds
        self._remembered: OrderedDict[str, tuple[Wish, asyncio.Future[Outcome | None]]] = OrderedDict()

    async def ask(self, wish: Wish, *, actor: str, key: str | None) -> Asked:
        """Send ``wish`` and wait for its outcome. Raises ``Transient``, and ``Problem`` for a key that cannot be."""
        if key is None:
            command_id = uuid.uuid4().hex
            return Asked(command_id, await self._send(wish, command_id, actor))
        command_id = _derived_id(wish, actor, key)
        remembered = self._remembered.get(command_id)
        if remembered is None:
            remembered = (wish, asyncio.ensure_future(self._send(wish, command_id, actor)))
            self._remember(command_id, remembered)
        elif remembered[0] != wish:
            detail = "This Idempotency-Key came with another request before; use a new key for a new request."
            raise Problem(422, "idempotency-key-reused", detail)
        return Asked(command_id, await asyncio.shield(remembered[1]))

    def _remember(self, command_id: str, remembered: tuple[Wish, asyncio.Future[Outcome | None]]) -> None:
        def settled(future: asyncio.Future[Outcome | None]) -> None:
            if future.cancelled() or future.exception() is not None or future.result() is None:
                self._remembered.pop(command_id, None)

        self._remembered[command_id] = remembered
        remembered[1].add_done_callback(settled)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    async def _send(self, wish: Wish, command_id: str, actor: str) -> Outcome | None:
        envelope = CommandEnvelope(
            id=command_id,
            tenant=self._tenant,
            entity=wish.entity,
            entity_id=wish.entity_id,
            time=self._clock.now(),
            command=wish.command,
            actor=actor,
            correlation=command_id,
            trace=current_trace(),
        )
        return await self._bus.ask(wish.service, wish.target, envelope, timeout_seconds=self._timeout_seconds)


def _derived_id(wish: Wish, actor: str, key: str) -> str:
    if not (key and key.isascii() and key.isprintable() and len(key) <= LONGEST_KEY):
        detail = f"An Idempotency-Key is 1 to {LONGEST_KEY} printable ASCII characters, a UUID for example."
        raise Problem(422, "invalid-idempotency-key", detail)
    parts = (actor, type(wish.command).__name__, wish.entity, wish.entity_id, key)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
