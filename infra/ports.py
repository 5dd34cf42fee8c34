"""What services need from the plumbing, in their own words. ``infra.jetstream`` and ``infra.memory`` implement it.

One contract suite (``tests/contract``) runs over both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec

from events.content import Content
from events.envelope import CommandEnvelope, Envelope, Outcome, Recorded


class Clock(Protocol):
    def now(self) -> datetime:
        """The present, in UTC."""

    async def sleep(self, seconds: float) -> None: ...


class Following(Protocol):
    """A live view of the log that goes on until it is closed."""

    async def close(self) -> None: ...


class EventLog(Protocol):
    """The tenant's events, in their one order. A revision is the sequence of an entity's last message, 0 for none."""

    @property
    def tenant(self) -> str: ...

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        """Append one decision if the entity is still at revision ``expected``; answer its new revision.

        With ``of_kind`` it stands on all entities of its kind: ``expected`` is the sequence of the last decision about
        any of them. No two such appends of a kind, made from the same state, both succeed.
        A repeat of the same decision (its id is the last message's) answers the revision it got the first time.
        Raises ``RevisionConflict`` where another decision came first, ``Transient`` where the log cannot be
        reached: then the decision may or may not be there, and the same append can be tried again.
        """

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        """Every decision of one entity with a sequence above ``after``, in order."""

    async def last(self, entity: str, id: str) -> Recorded | None:
        """The last decision of one entity, cheaply."""

    async def last_sequence(self) -> int:
        """The sequence of the last message of the whole log, 0 where it is empty."""

    async def created_at(self) -> datetime:
        """When the log was made: a snapshot or read model of another log must not be used with this one."""

    def replay(
        self, *, after: int = 0, until: int | None = None, entities: Sequence[str] = ()
    ) -> AsyncIterator[list[Recorded]]:
        """Batches of what is in the log now with ``after`` < sequence ≤ ``until``, only the named entities if any."""

    async def follow(
        self, deliver: Callable[[Recorded], None], *, after: int, entities: Sequence[str] = ()
    ) -> Following:
        """Call ``deliver`` with every decision above ``after``, now and as it comes: in order, without loss.

        Survives disconnections. Junk on a subject is counted and skipped. ``deliver`` must not block.
        """


class CommandBus(Protocol):
    """Sends commands. Subjects follow from the service, the target and the envelope's entity and id."""

    async def send(self, service: str, target: str, envelope: CommandEnvelope) -> bool:
        """Durably hand the command over. False where an open job of the same run is there already (RUNS only).

        A repeat to the same place with the same envelope id within two minutes is sent once. Raises ``Transient``.
        """

    def cast(self, service: str, target: str, envelope: CommandEnvelope) -> None:
        """Send without waiting to know; for commands that are derived from events again if they are lost.

        Nothing recognises a repeat here: whoever handles such a command does it by the command's id.
        """

    async def ask(
        self, service: str, target: str, envelope: CommandEnvelope, *, timeout_seconds: float
    ) -> Outcome | None:
        """Send durably and wait for the outcome; None where it is not known in time. Raises ``Transient``."""

    def reply(self, envelope: CommandEnvelope, outcome: Outcome) -> None:
        """Tell the outcome to whoever asked; nothing happens where nobody did."""


# Answers with the outcome for whoever waits for it, or None where there is nothing to say.
CommandHandler = Callable[[CommandEnvelope], Awaitable[Outcome | None]]


class ContentStore(Protocol):
    """Payloads by the SHA-256 of their bytes."""

    async def put(self, data: bytes) -> str:
        """Keep ``data``; answer its digest. Idempotent."""

    async def get(self, digest: str) -> bytes | None:
        """What was kept under ``digest``, or None."""


class OutputChunk(msgspec.Struct, frozen=True):
    """A piece of what a call printed. ``offset`` is its place in that call's whole output, in bytes.

    A restarted writer may send a piece again: a reader skips what lies below the offset it has reached.
    """

    sequence: int
    time: datetime
    call_id: str
    offset: int
    data: bytes


class OutputStore(Protocol):
    async def write(self, run_id: str, call_id: str, offset: int, data: bytes) -> None:
        """Durably append a chunk (at most 256 KiB)."""

    async def read(self, run_id: str, *, after: int = 0) -> list[OutputChunk]:
        """The chunks of a run with a sequence above ``after`` that are there now, in order (at most 1,000)."""

    async def follow(self, run_id: str, deliver: Callable[[OutputChunk], None], *, after: int = 0) -> Following:
        """Every chunk of a run above ``after``, now and as it comes."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A command that could not be handled. ``sequence`` names it; ``subject`` is where it was read and goes again."""

    sequence: int
    time: datetime
    service: str
    subject: str
    reason: str
    detail: str
    deliveries: int
    data: bytes


class DeadLetters(Protocol):
    async def put(self, service: str, subject: str, data: bytes, *, reason: str, detail: str, deliveries: int) -> None:
        """Durably keep a command that could not be handled."""

    async def list(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]: ...

    async def get(self, sequence: int) -> DeadLetter | None: ...

    async def resend(self, sequence: int) -> DeadLetter | None:
        """Publish it to its subject again, then remove it here; None where there is none such."""


async def store_content(store: ContentStore, text: str, *, inline: bool = True) -> Content:
    """``text`` as content: inline where it is small and may be, else kept in the store."""
    from events.content import INLINE_LIMIT_BYTES, Inline, Stored

    data = text.encode()
    if inline and len(data) <= INLINE_LIMIT_BYTES:
        return Inline(text)
    return Stored(digest=await store.put(data), size_bytes=len(data))


async def read_content(store: ContentStore, content: Content) -> str:
    """The text that ``content`` stands for; a note in its place where the store no longer has it."""
    from events.content import Inline

    if isinstance(content, Inline):
        return content.text
    data = await store.get(content.digest)
    return f"[content {content.digest} is not here]" if data is None else data.decode(errors="replace")


class RunLease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That the process ``runner`` on ``host`` holds a run. Where it is read: it was said ``silent_seconds`` ago, and
    lapses in ``lapses_seconds`` unless it is said again."""

    run_id: str
    runner: str
    host: str
    silent_seconds: float = 0.0
    lapses_seconds: float = 0.0


class RunLeases(Protocol):
    """Which runs are held now. To be seen by others only: what keeps two from holding a run is the log."""

    def hold(self, lease: RunLease, seconds: float) -> None:
        """Say that the run is held; unless it is said again, that lapses after so many seconds (at least 1). It may
        get lost."""

    def release(self, run_id: str) -> None:
        """Say that the run is not held any more; it may get lost, and lapses then."""

    async def held(self) -> dict[str, RunLease]:
        """The runs that are held now, by id. Raises ``Transient``."""


class HostSign(NamedTuple):
    """``silent_seconds`` have passed since; ``note`` is what the host told of itself."""

    silent_seconds: float
    note: bytes


class HostRegistry(Protocol):
    """The last sign of life of each host."""

    def announce(self, host: str, note: bytes = b"") -> None:
        """Say that ``host`` is there, and what it tells of itself; it may get lost."""

    async def silent_seconds(self, host: str) -> float:
        """For how long nothing was heard of ``host``, at most since the registry was made. Raises ``Transient``."""

    async def all(self) -> dict[str, HostSign]:
        """The last sign of every host that was heard of. Raises ``Transient``."""


class Delivered(Protocol):
    """One command as it was handed to this process. Settle it once: ``ack``, ``nak`` or ``terminate``."""

    @property
    def data(self) -> bytes: ...

    @property
    def subject(self) -> str: ...

    @property
    def deliveries(self) -> int:
        """How often it has been handed out, this time included."""

    @property
    def token(self) -> str:
        """By which a later process can give the command back (``CommandSource.give_back``)."""

    async def ack(self) -> None: ...

    async def nak(self, delay_seconds: float = 0.0) -> None: ...

    async def extend(self) -> None:
        """Say that the work goes on: the lease begins anew."""

    async def terminate(self) -> None: ...


class CommandSource(Protocol):
    """Hands out commands of a work queue, each to one process at a time."""

    async def subscribe(
        self,
        durable: str,
        stream: str,
        filters: Sequence[str],
        deliver: Callable[[Delivered], None],
        *,
        lease_seconds: float,
        capacity: Callable[[], int],
    ) -> Following:
        """Call ``deliver`` for each command that matches ``filters`` while ``capacity()`` says how many more fit.

        A command that is neither settled nor extended within ``lease_seconds`` is handed out again.
        """

    async def give_back(self, token: str) -> None:
        """Hand a command that a dead process held to the next one at once. Harmless where it is settled."""


class Leases(Protocol):
    """The tokens of the commands in hand, kept where the next process of this host finds them."""

    def open(self) -> list[str]:
        """Begin to keep leases; answer the tokens that dead predecessors left and whose time is not over."""

    def keep(self, token: str) -> None: ...

    def extend(self, token: str) -> None: ...

    def drop(self, token: str) -> None: ...

    def close(self) -> None: ...
