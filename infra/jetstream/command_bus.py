"""Commands out, outcomes back.

``send`` is stored before it returns; ``cast`` is one write to the socket and tells nothing; ``ask`` sends with a reply
subject of this process's inbox in the envelope and waits for the outcome there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import msgspec

from events import subjects
from events.codec import decode_outcome, encode
from events.envelope import CommandEnvelope, Outcome
from events.errors import Transient, UndecodableMessage
from infra.jetstream.requests import Lost, Refused, Requests, checked_subject, header_block, is_subject

logger = logging.getLogger("cairn.jetstream")

# "maximum messages per subject exceeded": the stream RUNS holds an open job of this run.
STORE_FAILED = 10077
INBOX = "_INBOX"
# Casts that wait for a reconnection; the oldest are dropped beyond it.
HELD_LIMIT = 10_000
SUBJECT_FULL = "maximum messages per subject"


class JetStreamCommandBus:
    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant
        self._held: deque[tuple[str, bytes, bytes]] | None = None

    async def send(self, service: str, target: str, envelope: CommandEnvelope) -> bool:
        subject = self._subject(service, target, envelope)
        # Tenants share the stream, and one id may stand for commands to several services.
        headers = _headers(envelope, ("Nats-Msg-Id", f"{subject}:{envelope.id}"))
        try:
            await self._requests.publish(subject, encode(envelope), headers)
        except Refused as error:
            if error.code == STORE_FAILED and SUBJECT_FULL in str(error):
                return False
            message = f"the command {envelope.id} was not taken: {error}"
            raise Transient(message) from error
        return True

    def cast(self, service: str, target: str, envelope: CommandEnvelope) -> None:
        subject = self._subject(service, target, envelope)
        cast = (subject, encode(envelope), _headers(envelope) if envelope.trace else b"")
        if self._held is not None:
            self._held.append(cast)
        else:
            self._requests.send(*cast)

    def hold(self) -> None:
        """Keep what is cast from now on: there is no connection, or the streams may not be there yet."""
        if self._held is None:
            self._held = deque(maxlen=HELD_LIMIT)

    def release(self) -> None:
        """Send what was kept."""
        held, self._held = self._held, None
        for cast in held or ():
            self._requests.send(*cast)

    async def ask(
        self, service: str, target: str, envelope: CommandEnvelope, *, timeout_seconds: float
    ) -> Outcome | None:
        reply, future = self._requests.expect(f"the outcome of {envelope.id}", timeout_seconds)
        envelope = msgspec.structs.replace(envelope, reply=reply.decode())
        try:
            # Not within the time limit: None must mean that the command is stored.
            if not await self.send(service, target, envelope):
                return None
            async with asyncio.timeout(timeout_seconds):
                return decode_outcome((await future).data)
        except (TimeoutError, Lost):
            return None
        except UndecodableMessage as error:
            logger.warning("the outcome of %s cannot be read: %s", envelope.id, error)
            return None
        finally:
            future.cancel()

    def reply(self, envelope: CommandEnvelope, outcome: Outcome) -> None:
        # Only to an inbox: the sender must not make this process write on any other subject.
        if envelope.reply.startswith(INBOX) and is_subject(envelope.reply):
            self._requests.send(envelope.reply, encode(outcome))

    def _subject(self, service: str, target: str, envelope: CommandEnvelope) -> str:
        return checked_subject(subjects.command(self._tenant, service, target, envelope.entity, envelope.entity_id))


def _headers(envelope: CommandEnvelope, *fields: tuple[str, str]) -> bytes:
    return header_block(*fields, ("traceparent", envelope.trace)) if envelope.trace else header_block(*fields)
