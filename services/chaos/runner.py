"""Carries experiments out: asks the policy what is next, does it, records it, until the verdict stands.

One task an experiment. A fault's intent is in the log before the engine is touched. While the log is away no fault
begins, and what is due, or called off, is undone all the same and recorded when the log is back. Whatever waits is
woken when the experiment changes, so that an abort takes effect at once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
import structlog

from events import faults as fault_specifications
from events.errors import CairnError, Invalid, Permanent, RevisionConflict, Transient
from events.experiment import (
    Experiment,
    FaultInjected,
    FaultIntended,
    FaultNotInjected,
    FaultStuck,
    FaultUndone,
    GuardTripped,
    Probed,
    RollbackPerformed,
    SamplesRecorded,
    SteadyStateProbed,
    StepBegun,
    StepEnded,
)
from events.kernel import Event
from infra.entities import Cause, EntityStore
from infra.ports import Clock
from services.chaos import policy
from services.chaos.deciders import experiment as decider
from services.chaos.document import Compose, Document, Fault, Probe, parse
from services.chaos.ports import Affected, Commands, Faults, Injected, Undone, World
from services.chaos.probing import Guarding, Prober, Sampling

logger = structlog.get_logger()

ACTOR = "chaos"
RETRY_SECONDS = 1.0
STUCK_RETRY_SECONDS = 2.0
RECORD_SAMPLES_SECONDS = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class Plumbing:
    """What the chaos service works with."""

    experiments: EntityStore[Experiment]
    faults: Faults
    world: World
    commands: Commands
    clock: Clock
    rules: policy.Rules
    host: str


def document_of(state: Experiment) -> Document:
    """What was asked for; without a method where an older version understood what this one does not."""
    assert state.requested is not None
    try:
        return parse(state.requested.document)
    except Invalid:
        return Document(title=state.requested.title)


class Job:
    """One experiment under way. ``state`` is the last that is known, also where the log is away."""

    def __init__(self, plumbing: Plumbing, state: Experiment, document: Document, cause: Cause) -> None:
        assert state.requested is not None
        self.state = state
        self.cause = cause
        self.document = document
        self.target = state.requested.target
        self.changed = asyncio.Event()
        self.tripped: Probed | None = None
        self.recorded_at = plumbing.clock.now()
        key = uuid.uuid4().hex[:8]
        self.prober = Prober(plumbing.world, plumbing.commands, plumbing.clock, state.id, self.target, key)
        self.sampling = [Sampling(self.prober, item, plumbing.clock) for item in document.observed]
        self.guarding: list[Guarding] = []
        self.samples: list[SamplesRecorded] = []

    @property
    def called_off(self) -> bool:
        return self.tripped is not None or self.state.abort is not None

    async def stop_watching(self) -> None:
        for sampling in self.sampling:
            await sampling.stop()
        for guarding in self.guarding:
            await guarding.stop()

    def trip(self, probed: Probed) -> None:
        self.tripped = self.tripped or probed
        self.changed.set()


class Runner:
    def __init__(self, plumbing: Plumbing) -> None:
        self._plumbing = plumbing
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, state: Experiment, cause: Cause) -> None:
        """Go on with an experiment; nothing where that is under way, or over. ``cause`` is what led to it."""
        if state.active and state.requested is not None and state.id not in self._tasks:
            job = Job(self._plumbing, state, document_of(state), cause)
            self._jobs[state.id] = job
            task = asyncio.create_task(self._see_through(job))
            self._tasks[state.id] = task
            task.add_done_callback(lambda _: self._forget(state.id))

    def works_on(self, id: str) -> bool:
        return id in self._tasks

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def wake(self, id: str, state: Experiment) -> None:
        """The experiment has changed from outside."""
        job = self._jobs.get(id)
        if job is not None:
            job.state = state
            job.changed.set()

    def intended(self) -> set[str]:
        """The faults of everything under way here that were intended and are not yet undone."""
        return {id for job in self._jobs.values() for id in job.state.open_faults}

    async def stop(self) -> None:
        """Let go of everything: faults stay until their end, whoever comes next goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, id: str) -> None:
        self._jobs.pop(id, None)
        self._tasks.pop(id, None)

    # ---- one experiment

    async def _see_through(self, job: Job) -> None:
        try:
            while job.state.active:
                await self._step(job)
        finally:
            await job.stop_watching()
        logger.info("experiment ended", experiment=job.state.id, status=job.state.status)

    async def _step(self, job: Job) -> None:
        job.changed.clear()
        try:
            if not job.document.method and job.state.abort is None:
                detail = "its document cannot be read any more"
                await self._append(job, "abort", lambda state: decider.call_off(state, "unreadable", detail))
            if job.tripped is not None and job.state.guard is None and job.state.abort is None:
                await self._undo_all(job)
                tripped = GuardTripped(probe=job.tripped)
                await self._append(job, "guard", lambda state: decider.trip(state, tripped))
            await self._watch(job)
            action = policy.following(job.state, job.document, self._plumbing.clock.now())
            await self._carry_out(job, action)
        except (Transient, RevisionConflict) as error:
            logger.warning("experiment delayed", experiment=job.state.id, error=str(error))
            await self._undo_due(job)
            await self._sleep(job, error.delay_seconds if isinstance(error, Transient) else RETRY_SECONDS)
        except Permanent as error:
            logger.error("experiment held up", experiment=job.state.id, error=str(error))
            await self._sleep(job, RETRY_SECONDS)

    async def _carry_out(self, job: Job, action: policy.Action) -> None:
        match action:
            case policy.Wait(until=until):
                await self._wait(job, until)
            case policy.ProbeBefore():
                await self._probe_before(job)
            case policy.ProbeAfter(since=since, last=last):
                await self._probe_after(job, since, last=last)
            case policy.Begin(step=number):
                step = job.document.method[number]
                begun = StepBegun(step=number, name=step.name, kind=step.kind, at=self._plumbing.clock.now())
                await self._append(job, f"begin-{number}", lambda state: decider.begin_step(state, begun))
            case policy.End(step=number, succeeded=succeeded, detail=detail):
                await self._end_step(job, number, succeeded=succeeded, detail=detail)
            case policy.Intend(step=number):
                await self._intend(job, number)
            case policy.Inject(fault_id=fault_id):
                await self._inject(job, fault_id)
            case policy.Undo(fault_id=fault_id, reason=reason):
                await self.undo(job.state.id, fault_id, reason)
            case policy.Perform(step=number):
                work = job.document.method[number].work
                assert isinstance(work, Compose)
                done = await self._or_changed(job, self._perform(job, work))
                if done is not None:
                    await self._end_step(job, number, succeeded=done[0], detail=done[1])
            case policy.Ask(step=number):
                work = job.document.method[number].work
                assert isinstance(work, Probe)
                probed = await self._or_changed(job, job.prober.ask(work))
                if probed is not None:
                    await self._end_step(job, number, succeeded=True, probed=probed)
            case policy.RollBack(number=number):
                await self._roll_back(job, number)
            case policy.Abort(cause=cause, detail=detail):
                await self._append(job, f"abort-{cause}", lambda state: decider.call_off(state, cause, detail))
            case policy.Conclude():
                await self._conclude(job)
            case policy.Nothing():
                pass

    async def _append(self, job: Job, what: str, decide: Callable[[Experiment], Sequence[Event]]) -> None:
        """Raises ``Transient`` where the log is away: then nothing may be counted on, and nothing new begins."""
        id = job.state.id
        cause = _as(job.cause, f"{id}-{what}")
        decision = await self._plumbing.experiments.decide(id, cause, decide)
        job.state = decision.state

    # ---- waiting, and being woken

    async def _wait(self, job: Job, until: datetime) -> None:
        """Until that time, or until something changes; samples are recorded and stuck faults undone meanwhile."""
        seconds = (until - self._plumbing.clock.now()).total_seconds()
        stuck = [id for id, fault in job.state.open_faults.items() if fault.stuck is not None]
        if stuck:
            await self._sleep(job, min(seconds, STUCK_RETRY_SECONDS))
            for id in stuck:
                await self.undo(job.state.id, id, "aborted" if job.called_off else "ended")
            return
        await self._sleep(job, min(seconds, RECORD_SAMPLES_SECONDS) if job.sampling else seconds)

    async def _sleep(self, job: Job, seconds: float) -> None:
        await self._or_changed(job, self._plumbing.clock.sleep(max(0.0, seconds)))

    async def _or_changed(self, job: Job, work: Awaitable[T]) -> T | None:
        """What ``work`` answers, or None where the experiment changed first: then it is given up."""
        doing = asyncio.ensure_future(work)
        changed = asyncio.ensure_future(job.changed.wait())
        try:
            await asyncio.wait({doing, changed}, return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            doing.cancel()
            changed.cancel()

    # ---- observing

    async def _watch(self, job: Job) -> None:
        """Have the continuous probes and guards at work while they are to be, and what they saw in the log."""
        if policy.observing(job.state, job.document) and job.state.begun:
            for sampling in job.sampling:
                sampling.start()
            if not job.guarding:
                clock = self._plumbing.clock
                job.guarding = [Guarding(job.prober, item, clock, job.trip) for item in job.document.guards]
        now = self._plumbing.clock.now()
        if job.sampling and (now - job.recorded_at).total_seconds() >= RECORD_SAMPLES_SECONDS:
            await self._record_samples(job, now)

    async def _record_samples(self, job: Job, now: datetime) -> None:
        """Kept until the log has them: a sample that was taken is not lost for an append that failed."""
        job.samples += [taken for sampling in job.sampling if (taken := sampling.take()) is not None]
        if job.samples:
            samples = tuple(job.samples)
            name = f"samples-{uuid.uuid4().hex[:12]}"
            await self._append(job, name, lambda state: decider.record_samples(state, samples))
            del job.samples[: len(samples)]
        job.recorded_at = now

    async def _probe_before(self, job: Job) -> None:
        probes = await self._or_changed(job, self._ask_all(job))
        if probes is not None:
            met = all(probed.held for probed in probes)
            before = SteadyStateProbed(phase="before", met=met, probes=probes)
            await self._append(job, "before", lambda state: decider.record_before(state, before))

    async def _probe_after(self, job: Job, since: datetime, *, last: bool) -> None:
        began = self._plumbing.clock.now()
        probes = await self._or_changed(job, self._ask_all(job))
        if probes is None:
            return
        met = all(probed.held for probed in probes)
        if met or last:
            after = SteadyStateProbed(phase="after", met=met, probes=probes)
            seconds = max(0.0, (began - since).total_seconds()) if met else None
            await self._append(job, "after", lambda state: decider.record_after(state, after, seconds))
        else:
            await self._sleep(job, policy.RECOVERY_POLL_SECONDS)

    async def _ask_all(self, job: Job) -> tuple[Probed, ...]:
        return tuple(await asyncio.gather(*(job.prober.ask(probe) for probe in job.document.hypothesis)))

    # ---- doing

    async def _end_step(
        self, job: Job, number: int, *, succeeded: bool, detail: str = "", probed: Probed | None = None
    ) -> None:
        ended = StepEnded(
            step=number,
            name=job.document.method[number].name,
            succeeded=succeeded,
            at=self._plumbing.clock.now(),
            detail=detail,
            probed=probed,
        )
        await self._append(job, f"end-{number}", lambda state: decider.end_step(state, ended))

    async def _intend(self, job: Job, number: int) -> None:
        work = job.document.method[number].work
        assert isinstance(work, Fault)
        try:
            affected = await self._affected(job, work.fault)
            await self._check_room()
        except (Permanent, Invalid) as error:
            cause, detail = error.slug, str(error)
            await self._append(
                job, "abort", lambda state: decider.call_off(state, "not-injected", f"{cause}: {detail}")
            )
            return
        intended = FaultIntended(
            fault_id=policy.fault_id(job.state.id, number),
            step=number,
            fault=msgspec.to_builtins(work.fault),
            containers=tuple(container.shown for container in affected.hit),
            peers=tuple(container.shown for container in affected.peers),
            ends_at=self._plumbing.clock.now() + timedelta(seconds=work.fault.duration_seconds),
        )
        await self._append(job, f"intend-{number}", lambda state: decider.intend(state, intended))

    async def _affected(self, job: Job, fault: fault_specifications.AnyFault) -> Affected:
        """Whom the fault would hit now. Raises ``Permanent`` for one that must not be."""
        affected = await self._plumbing.faults.resolve(job.target, fault)
        why = policy.why_protected(affected.hit, self._plumbing.rules.protected)
        if why:
            raise Permanent(why, slug="protected")
        return affected

    async def _check_room(self) -> None:
        """The limit holds for the whole host, whoever asked for what holds now."""
        held = {record.fault_id for record in await self._plumbing.faults.active()}
        limit = self._plumbing.rules.faults_at_once
        if len(held) >= limit:
            message = f"{len(held)} faults hold on this host already; it allows {limit} (chaos.faults_at_once)"
            raise Permanent(message, slug="too-many-faults")

    async def _inject(self, job: Job, fault_id: str) -> None:
        intended = job.state.faults[fault_id].intended
        try:
            fault = fault_specifications.parse(intended.fault)
            affected = await self._affected(job, fault)
            injected = await self._shielded(
                self._plumbing.faults.inject(
                    fault_id, fault, affected, intended.ends_at.timestamp(), experiment_id=job.state.id
                )
            )
        except (Permanent, Invalid) as error:
            failed = FaultNotInjected(fault_id=fault_id, cause=error.slug, detail=str(error))
            await self._append(job, f"{fault_id}-failed", lambda state: decider.record_not_injected(state, failed))
            return
        done = FaultInjected(fault_id=fault_id, seconds=round(injected.seconds, 3))
        await self._append(job, f"{fault_id}-injected", lambda state: decider.record_injected(state, done))

    async def _shielded(self, injecting: Awaitable[Injected]) -> Injected:
        """To its end, also where this process is asked to stop meanwhile: half a fault is nobody's wish."""
        doing = asyncio.ensure_future(injecting)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait({doing}, timeout=RETRY_SECONDS)
            raise

    async def undo(self, id: str, fault_id: str, reason: str) -> None:
        """Make it as it was before, first in the world, then in the log. What is refused stays, and is reported. Raises
        ``Transient``."""
        try:
            undone = await self._plumbing.faults.undo(fault_id)
            if undone.stuck:
                # At its end others undo it too, and one is in the way of the other for a moment.
                await self._plumbing.clock.sleep(RETRY_SECONDS)
                undone = await self._plumbing.faults.undo(fault_id)
        except Permanent as error:
            undone = Undone(fault_id=fault_id, stuck=(str(error),))
        await self.record_undone(id, undone, reason)

    async def record_undone(self, id: str, undone: Undone, reason: str) -> None:
        """That a fault is gone, or stuck. Raises ``Transient``."""
        fault_id = undone.fault_id
        job = self._jobs.get(id)
        cause = _as(job.cause if job is not None else Cause(id=id), f"{fault_id}-undone-{uuid.uuid4().hex[:8]}")
        now = self._plumbing.clock.now()
        if undone.stuck:
            stuck = FaultStuck(fault_id=fault_id, at=now, left=undone.stuck)
            decision = await self._plumbing.experiments.decide(
                id, cause, lambda state: decider.record_stuck(state, stuck)
            )
        else:
            ended = FaultUndone(fault_id=fault_id, at=now, seconds=round(undone.seconds, 3), reason=reason)
            decision = await self._plumbing.experiments.decide(
                id, cause, lambda state: decider.record_undone(state, ended)
            )
        if job is not None:
            job.state = decision.state

    async def _undo_all(self, job: Job) -> None:
        """Before anything else is said: the system suffers now."""
        for fault_id in job.state.open_faults:
            await self._plumbing.faults.undo(fault_id)

    async def _undo_due(self, job: Job) -> None:
        """The log is away: what is due or called off goes all the same, and is recorded later."""
        now = self._plumbing.clock.now()
        for fault_id, fault in job.state.open_faults.items():
            if job.called_off or now >= fault.intended.ends_at:
                try:
                    await self._plumbing.faults.undo(fault_id)
                except CairnError as error:
                    logger.warning("undone later", fault=fault_id, error=str(error))

    async def _perform(self, job: Job, action: Compose) -> tuple[bool, str]:
        try:
            return True, await self._plumbing.world.perform(job.target, action)
        except Permanent as error:
            return False, str(error)

    async def _roll_back(self, job: Job, number: int) -> None:
        step = job.document.rollbacks[number]
        assert isinstance(step.work, Compose)
        succeeded, detail = await self._perform(job, step.work)
        performed = RollbackPerformed(number=number, name=step.name, succeeded=succeeded, detail=detail)
        await self._append(job, f"rollback-{number}", lambda state: decider.record_rollback(state, performed))

    async def _conclude(self, job: Job) -> None:
        await job.stop_watching()
        await self._record_samples(job, self._plumbing.clock.now())
        document = job.document
        await self._append(job, "verdict", lambda state: decider.conclude(state, document))


def _as(cause: Cause, id: str) -> Cause:
    """A decision of ours, with what led to it."""
    return msgspec.structs.replace(cause, id=id, actor=ACTOR, causation=cause.causation or cause.id)
