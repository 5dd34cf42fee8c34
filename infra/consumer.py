"""The command consumer: takes commands of a queue, hands each to the handler, settles it by what comes of it.

========================= ===========================================================================
the handler               the command
========================= ===========================================================================
returns                   outcome to whoever waits, acknowledged
raises CommandRejected    outcome to whoever waits, else a dead letter; acknowledged
raises Transient          given back with the delay that it names, as often as it takes
raises RevisionConflict   given back with a short delay, at most ``max_deliveries`` failures
raises Fenced             left as it is: it belongs to another process
raises Permanent          dead letter, terminated
is cancelled by ``stop``  given back at once
raises anything else      our bug: logged, given back with a growing delay, at most ``max_deliveries``
                          failures, then dead letter, terminated
cannot be called: junk    dead letter, terminated
========================= ===========================================================================

Commands of one entity are handled one after another in the order of their arrival, those of different entities side by
side, up to ``concurrency`` in all. The lease of every command in hand is extended three times within its length.
A dead letter is stored before its command is terminated. Failures are counted in this process: deliveries also count
restarts and waiting for the outside, which are nobody's bug.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from events.codec import decode_command
from events.envelope import CommandEnvelope, Outcome
from events.errors import (
    CairnError,
    CommandRejected,
    Fenced,
    Permanent,
    RevisionConflict,
    Transient,
    UndecodableMessage,
)
from infra.clock import SystemClock
from infra.metrics import count_dead_letter, watch_in_flight
from infra.ports import Clock, CommandBus, CommandHandler, CommandSource, DeadLetters, Delivered, Following, Leases

logger = logging.getLogger("cairn.consumer")

# nats-server keeps a refusal over its own restart only where it has a delay: without one whoever comes after a restart
# of everything would wait out the lease.
GIVE_BACK_DELAY_SECONDS = 0.001
CONFLICT_DELAY_SECONDS = 0.05
BUG_DELAY_SECONDS = 0.5
BUG_DELAY_LIMIT_SECONDS = 30.0
UNSETTLED_DELAY_SECONDS = 1.0
COUNTED_FAILURES = 10_000

# Name of the command, seconds, and what came of it: handled, rejected, postponed, conflicted, refused, failed,
# fenced, given-back or undecodable.
Handled = Callable[[str, float, str], None]


class Consumer:
    """``around`` is entered around each call of the handler; ``on_handled`` hears of each result."""

    def __init__(
        self,
        source: CommandSource,
        replies: CommandBus,
        dead_letters: DeadLetters,
        *,
        service: str,
        durable: str,
        stream: str,
        filters: Sequence[str],
        handler: CommandHandler,
        concurrency: int,
        lease_seconds: float,
        max_deliveries: int = 5,
        leases: Leases | None = None,
        clock: Clock | None = None,
        on_handled: Handled | None = None,
        around: Callable[[CommandEnvelope], AbstractContextManager[Any]] = lambda envelope: nullcontext(),
    ) -> None:
        self._source = source
        self._replies = replies
        self._dead_letters = dead_letters
        self._service = service
        self._durable = durable
        self._stream = stream
        self._filters = filters
        self._handler = handler
        self._concurrency = concurrency
        self._lease_seconds = lease_seconds
        self._max_deliveries = max_deliveries
        self._leases = leases
        self._clock = clock or SystemClock()
        self._on_handled = on_handled
        self._around = around
        self._held: dict[str, Delivered] = {}
        self._lanes: dict[str, deque[tuple[Delivered, CommandEnvelope]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: OrderedDict[str, int] = OrderedDict()
        self._following: Following | None = None
        self._extending: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def in_flight(self) -> int:
        """The commands in hand, waiting or being handled."""
        return len(self._held)

    async def start(self) -> None:
        """Raises ``Transient`` where the queue cannot be reached."""
        if self._leases is not None:
            for token in self._leases.open():
                await self._source.give_back(token)
        self._following = await self._source.subscribe(
            self._durable,
            self._stream,
            self._filters,
            self._accept,
            lease_seconds=self._lease_seconds,
            capacity=lambda: self._concurrency - len(self._held),
        )
        self._extending = asyncio.create_task(self._extend())
        watch_in_flight(self._service, self._durable, lambda: self.in_flight)

    async def stop(self, grace_seconds: float) -> None:
        """Take nothing more, give back what waits, let what runs end within the grace, then give it back too."""
        self._stopping = True
        if self._following is not None:
            await self._following.close()
        for lane in self._lanes.values():
            while lane:
                await self._give_back(lane.popleft()[0])
        if self._tasks and grace_seconds > 0:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._extending is not None:
            self._extending.cancel()
            await asyncio.wait([self._extending])
        if self._leases is not None:
            self._leases.close()

    def _accept(self, delivered: Delivered) -> None:
        self._held[delivered.token] = delivered
        if self._leases is not None:
            self._leases.keep(delivered.token)
        if self._stopping:
            self._start(self._give_back(delivered))
            return
        try:
            envelope = decode_command(delivered.data)
        except UndecodableMessage as error:
            self._start(self._refuse_junk(delivered, error))
            return
        lane = f"{envelope.entity}.{envelope.entity_id}"
        waiting = self._lanes.get(lane)
        if waiting is not None:
            waiting.append((delivered, envelope))
            return
        self._lanes[lane] = deque([(delivered, envelope)])
        self._start(self._work(lane))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, lane: str) -> None:
        waiting = self._lanes[lane]
        try:
            while waiting:
                await self._handle(*waiting.popleft())
        finally:
            del self._lanes[lane]
            for delivered, _ in waiting:
                await self._give_back(delivered)

    async def _handle(self, delivered: Delivered, envelope: CommandEnvelope) -> None:
        name = type(envelope.command).__name__
        began = time.perf_counter()
        result = "failed"
        try:
            result = await self._settle(delivered, envelope)
        except asyncio.CancelledError:
            result = "given-back"
            await self._give_back(delivered)
            raise
        except CairnError as error:
            # Not even the dead letter could be stored: so the command must come again.
            logger.error("%s %s could not be settled: %s", name, envelope.id, error, extra=_fields(envelope))
            await delivered.nak(UNSETTLED_DELAY_SECONDS)
        finally:
            self._forget(delivered)
            if self._on_handled is not None:
                self._on_handled(name, time.perf_counter() - began, result)

    async def _settle(self, delivered: Delivered, envelope: CommandEnvelope) -> str:
        try:
            with self._around(envelope):
                outcome = await self._handler(envelope)
        except CommandRejected as error:
            return await self._reject(delivered, envelope, error)
        except Transient as error:
            self._log(logging.INFO, "postponed", envelope, error)
            await delivered.nak(error.delay_seconds)
            return "postponed"
        except RevisionConflict as error:
            return await self._again(delivered, envelope, error, "conflicted", CONFLICT_DELAY_SECONDS)
        except Fenced as error:
            # The job is with whoever holds the work now: settling it here would take it from them.
            self._log(logging.WARNING, "fenced", envelope, error)
            return "fenced"
        except Permanent as error:
            self._log(logging.WARNING, "refused", envelope, error)
            await self._bury(delivered, error.slug, str(error))
            return "refused"
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self._stopping:
                raise
            self._log(logging.ERROR, "failed", envelope, error)
            count = self._failures.get(_key(delivered, envelope), 0)
            delay = min(BUG_DELAY_SECONDS * 2**count, BUG_DELAY_LIMIT_SECONDS)
            return await self._again(delivered, envelope, error, "failed", delay)
        self._failures.pop(_key(delivered, envelope), None)
        if outcome is not None:
            self._replies.reply(envelope, outcome)
        await delivered.ack()
        return "handled"

    async def _reject(self, delivered: Delivered, envelope: CommandEnvelope, error: CommandRejected) -> str:
        self._log(logging.INFO, "rejected", envelope, error)
        if envelope.reply:
            outcome = Outcome(
                accepted=False,
                entity=envelope.entity,
                entity_id=envelope.entity_id,
                slug=error.slug,
                message=str(error),
                status=error.status,
            )
            self._replies.reply(envelope, outcome)
        else:
            await self._keep_dead(delivered, error.slug, str(error))
        await delivered.ack()
        return "rejected"

    async def _again(
        self, delivered: Delivered, envelope: CommandEnvelope, error: BaseException, result: str, delay_seconds: float
    ) -> str:
        """Give the command back after a failure, or bury it where it has failed often enough."""
        key = _key(delivered, envelope)
        failures = self._failures.pop(key, 0) + 1
        if failures >= self._max_deliveries:
            await self._bury(delivered, result, f"{type(error).__name__}: {error}")
            return result
        self._failures[key] = failures
        if len(self._failures) > COUNTED_FAILURES:
            self._failures.popitem(last=False)
        await delivered.nak(delay_seconds)
        return result

    async def _refuse_junk(self, delivered: Delivered, error: UndecodableMessage) -> None:
        logger.warning("a message on %s is no command: %s", delivered.subject, error)
        try:
            await self._bury(delivered, "undecodable", str(error))
        except CairnError as failure:
            logger.error("the dead letter of %s could not be stored: %s", delivered.subject, failure)
        finally:
            self._forget(delivered)
            if self._on_handled is not None:
                self._on_handled("", 0.0, "undecodable")

    async def _bury(self, delivered: Delivered, reason: str, detail: str) -> None:
        await self._keep_dead(delivered, reason, detail)
        await delivered.terminate()

    async def _keep_dead(self, delivered: Delivered, reason: str, detail: str) -> None:
        await self._dead_letters.put(
            self._service,
            delivered.subject,
            delivered.data,
            reason=reason,
            detail=detail,
            deliveries=delivered.deliveries,
        )
        count_dead_letter(self._service, reason)

    async def _give_back(self, delivered: Delivered) -> None:
        await delivered.nak(GIVE_BACK_DELAY_SECONDS)
        self._forget(delivered)

    def _forget(self, delivered: Delivered) -> None:
        self._held.pop(delivered.token, None)
        if self._leases is not None:
            self._leases.drop(delivered.token)

    async def _extend(self) -> None:
        while True:
            await self._clock.sleep(self._lease_seconds / 3)
            for token, delivered in tuple(self._held.items()):
                await delivered.extend()
                if self._leases is not None:
                    self._leases.extend(token)

    def _log(self, level: int, result: str, envelope: CommandEnvelope, error: BaseException) -> None:
        name = type(envelope.command).__name__
        kind = type(error).__name__
        trace = error if level >= logging.ERROR else None
        fields = _fields(envelope, error_type=kind)
        logger.log(level, "%s %s: %s: %s", name, result, kind, error, extra=fields, exc_info=trace)


def _key(delivered: Delivered, envelope: CommandEnvelope) -> str:
    return f"{delivered.subject} {envelope.id}"


def _fields(envelope: CommandEnvelope, **more: str) -> dict[str, str]:
    return {
        "command": type(envelope.command).__name__,
        "command_id": envelope.id,
        "entity": envelope.entity,
        "entity_id": envelope.entity_id,
        **more,
    }
