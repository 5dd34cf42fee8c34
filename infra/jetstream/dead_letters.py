"""Commands that could not be handled: their bytes as they were, and what is known about them in a header as JSON."""

from __future__ import annotations

import logging

import msgspec

from events import subjects
from events.errors import CommandRejected, Transient
from infra.jetstream.direct import NO_MESSAGE, StoredMessage, read_all, read_at
from infra.jetstream.requests import Refused, Requests, checked_subject, header_block, header_value
from infra.ports import DeadLetter

logger = logging.getLogger("cairn.jetstream")

HEADER = "Cairn-Dead-Letter"
DETAIL_LIMIT = 2000


class _Known(msgspec.Struct, frozen=True):
    service: str
    subject: str
    reason: str
    detail: str
    deliveries: int


class JetStreamDeadLetters:
    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant
        self._stream = subjects.DEAD_LETTERS

    async def put(self, service: str, subject: str, data: bytes, *, reason: str, detail: str, deliveries: int) -> None:
        known = _Known(service, subject, reason, detail[:DETAIL_LIMIT], deliveries)
        headers = header_block((HEADER, msgspec.json.encode(known).decode()))
        try:
            await self._requests.publish(checked_subject(subjects.dead_letter(self._tenant, service)), data, headers)
        except Refused as error:
            message = f"the dead letter of {subject} was not taken: {error}"
            raise Transient(message) from error

    async def list(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        subject = subjects.dead_letter(self._tenant, "*")
        found = await read_all(self._requests, self._stream, subject, after=after, limit=limit)
        return [letter for message in found if (letter := self._letter(message)) is not None]

    async def get(self, sequence: int) -> DeadLetter | None:
        message = await read_at(self._requests, self._stream, sequence)
        return None if message is None else self._letter(message)

    async def resend(self, sequence: int) -> DeadLetter | None:
        """Raises ``CommandRejected`` where the queue does not take it now; then it stays here."""
        letter = await self.get(sequence)
        if letter is None:
            return None
        # The id makes it safe to repeat where the removal below was not reached.
        headers = header_block(("Nats-Msg-Id", f"{self._tenant}:dead-letter:{sequence}"))
        try:
            await self._requests.publish(checked_subject(letter.subject), letter.data, headers)
        except Refused as error:
            message = f"{letter.subject} does not take the command now: {error}."
            raise CommandRejected(message, slug="not-taken") from error
        try:
            await self._requests.api(f"STREAM.MSG.DELETE.{self._stream}", {"seq": sequence, "no_erase": True})
        except Refused as error:
            if error.code != NO_MESSAGE:
                logger.warning("the dead letter %d was sent again but could not be removed: %s", sequence, error)
        return letter

    def _letter(self, message: StoredMessage) -> DeadLetter | None:
        if not message.subject.startswith(subjects.dead_letter(self._tenant, "")):
            return None
        try:
            known = msgspec.json.decode(header_value(message.headers, HEADER.encode()), type=_Known)
        except msgspec.MsgspecError:
            logger.warning("message %d of %s is skipped: it is no dead letter", message.sequence, self._stream)
            return None
        return DeadLetter(
            sequence=message.sequence,
            time=message.stored_at,
            service=known.service,
            subject=known.subject,
            reason=known.reason,
            detail=known.detail,
            deliveries=known.deliveries,
            data=message.data,
        )
