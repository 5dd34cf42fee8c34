"""Commands for experiments and for chaos as a whole.

An experiment that cannot be is refused by an event, so that whoever waits for its end hears of it; a person who asked
over HTTP gets the same as a rejection.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import structlog

from events.chaos import CHAOS, HALT, Chaos, HaltChaos, ResumeChaos
from events.envelope import CommandEnvelope, Outcome
from events.environment import Environment
from events.errors import CommandRejected, Invalid, Permanent
from events.experiment import (
    COMPOSE_TARGET,
    EXPERIMENT,
    AbortExperiment,
    Experiment,
    ExperimentRefused,
    ExperimentRequested,
    ResolvedFault,
    RunExperiment,
)
from infra.entities import Cause, Decision, EntityStore
from services.chaos import policy
from services.chaos.deciders import chaos as chaos_decider
from services.chaos.deciders import experiment as decider
from services.chaos.document import Command, Document, parse
from services.chaos.ports import Affected
from services.chaos.runner import Plumbing, Runner

logger = structlog.get_logger()

STATUS_OF_REFUSED = {"invalid-experiment": 422, "invalid-fault": 422, "invalid-duration": 422, "target-missing": 404}


class Refused(Exception):
    """The experiment may not begin. ``cause`` is a slug."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class Handlers:
    """``environments`` and ``chaos`` are folded from the log when they are asked for."""

    def __init__(
        self, plumbing: Plumbing, runner: Runner, environments: EntityStore[Environment], chaos: EntityStore[Chaos]
    ) -> None:
        self._plumbing = plumbing
        self._runner = runner
        self._environments = environments
        self._chaos = chaos

    async def handle(self, envelope: CommandEnvelope) -> Outcome:
        match envelope.command:
            case RunExperiment() as command:
                return await self._run(envelope, command)
            case AbortExperiment() as command:
                return await self._abort(envelope, command)
            case command:
                raise _unknown(command)

    async def handle_chaos(self, envelope: CommandEnvelope) -> Outcome:
        """Halt and resume: for all hosts, decided by whichever takes the command."""
        command = envelope.command
        await self._chaos.load(HALT)
        if isinstance(command, HaltChaos):
            halting = command
            decision = await self._chaos.decide(
                HALT, Cause.of(envelope), lambda state: chaos_decider.halt(state, halting, by=envelope.actor)
            )
        elif isinstance(command, ResumeChaos):
            resuming = command
            decision = await self._chaos.decide(
                HALT, Cause.of(envelope), lambda state: chaos_decider.resume(state, resuming, by=envelope.actor)
            )
        else:
            raise _unknown(command)
        return _accepted(CHAOS.name, HALT, decision)

    async def _run(self, envelope: CommandEnvelope, command: RunExperiment) -> Outcome:
        id = envelope.entity_id
        state, revision = await self._plumbing.experiments.load(id)
        if state.requested is None:
            decision = await self._decide(id, command, envelope)
            state = decision.state
            logger.info("experiment", experiment=id, status=state.status)
        else:
            decision = Decision(state, revision, ())
        self._runner.begin(state, Cause.of(envelope))
        if isinstance(state.verdict, ExperimentRefused) and state.validated is None:
            return _refused(id, decision, state.verdict)
        return _accepted(EXPERIMENT.name, id, decision)

    async def _decide(self, id: str, command: RunExperiment, envelope: CommandEnvelope) -> Decision[Experiment]:
        cause, experiments = Cause.of(envelope), self._plumbing.experiments
        requested = ExperimentRequested(
            document=command.document,
            title="",
            target=command.target,
            host=self._plumbing.host,
            reason=command.reason,
            by=envelope.actor,
            dry_run=command.dry_run,
            run_id=command.run_id,
            call_id=command.call_id,
        )
        try:
            document = parse(command.document, longest_fault_seconds=self._plumbing.rules.longest_fault_seconds)
            requested = msgspec.structs.replace(requested, title=document.title)
            resolved = await self._check(id, document, command)
        except (Invalid, Permanent) as error:
            slug, detail = error.slug, str(error)
            return await experiments.decide(id, cause, lambda state: decider.refuse(state, requested, slug, detail))
        except Refused as refused:
            slug, detail = refused.cause, str(refused)
            return await experiments.decide(id, cause, lambda state: decider.refuse(state, requested, slug, detail))
        now = self._plumbing.clock.now()
        return await experiments.decide(
            id,
            cause,
            lambda state: decider.validate(
                state, requested, resolved, now=now, longest_seconds=document.longest_seconds
            ),
        )

    async def _check(self, id: str, document: Document, command: RunExperiment) -> tuple[ResolvedFault, ...]:
        """Everything that can be known before: whom each fault would hit. Raises ``Refused``, ``Invalid``,
        ``Permanent``, and ``Transient`` where no engine answers."""
        halted = (await self._chaos.load(HALT))[0].halted
        if halted is not None and not command.dry_run:
            reason = f": {halted.reason}" if halted.reason else ""
            raise Refused("halted", f"chaos is halted by {halted.by or 'somebody'}{reason}. See cairn chaos resume.")
        await self._check_target(document, command.target)
        why = policy.why_beyond(document) if command.call_id else ""
        if why:
            raise Refused("not-its-own", why)
        faults, rules = self._plumbing.faults, self._plumbing.rules
        why = policy.why_impossible(document, await faults.capabilities()) if document.faults else ""
        if why:
            raise Refused("not-possible-here", why)
        affected: dict[int, Affected] = {}
        for number, fault in document.faults.items():
            affected[number] = await faults.resolve(command.target, fault)
            why = policy.why_protected(affected[number].hit, rules.protected)
            if why:
                raise Refused("protected", why)
        why = policy.why_clashing(document, affected, rules.faults_at_once)
        if why:
            raise Refused("too-many-faults", why)
        await self._check_residue(id, document, command.target)
        return _resolved(document, affected)

    async def _check_target(self, document: Document, target: str) -> None:
        rules = self._plumbing.rules
        if target.startswith(COMPOSE_TARGET):
            name = target.removeprefix(COMPOSE_TARGET)
            if name not in rules.projects:
                allowed = ", ".join(rules.projects) or "none"
                detail = (
                    f"the Compose project {name!r} is not ours; the settings of host {self._plumbing.host} allow "
                    f"{allowed} (chaos.projects)"
                )
                raise Refused("target-not-allowed", detail)
            if any(isinstance(probe.provider, Command) and not probe.provider.service for probe in document.probes):
                detail = f"a command probe without a service needs an environment to run in, and {target} has none"
                raise Refused("invalid-experiment", detail)
            return
        environment, _ = await self._environments.load(target)
        if environment.prepared is None:
            raise Refused("target-missing", f"there is no environment {target!r}: see cairn environments")
        if not environment.stands:
            raise Refused("target-missing", f"environment {target} is gone")
        if environment.host != self._plumbing.host:
            raise Refused("target-elsewhere", f"environment {target} lives on {environment.host}")

    async def _check_residue(self, id: str, document: Document, target: str) -> None:
        """What an earlier fault left, or another experiment does now, would be taken for this one's doing."""
        explained = self._runner.intended()
        for record in await self._plumbing.faults.active():
            if record.target != target or record.experiment_id == id:
                continue
            until = datetime.fromtimestamp(record.until, UTC)
            if record.fault_id not in explained:
                detail = (
                    f"{record.fault.kind} ({record.fault_id}) is left in {target} and being undone, at the latest when "
                    f"it ends at {until:%H:%M:%S} UTC. Try again then."
                )
                raise Refused("residue", detail)
            if document.hypothesis or document.observed:
                detail = (
                    f"experiment {record.experiment_id} has {record.fault.kind} in {target} until {until:%H:%M:%S} "
                    "UTC, which would be taken for this one's doing. Try again then, or end it: "
                    f"cairn chaos abort {record.experiment_id}"
                )
                raise Refused("busy", detail)

    async def _abort(self, envelope: CommandEnvelope, command: AbortExperiment) -> Outcome:
        id = envelope.entity_id
        await self._plumbing.experiments.load(id)
        decision = await self._plumbing.experiments.decide(
            id, Cause.of(envelope), lambda state: decider.abort(state, command, by=envelope.actor)
        )
        self._runner.wake(id, decision.state)
        self._runner.begin(decision.state, Cause.of(envelope))
        return _accepted(EXPERIMENT.name, id, decision)


def _resolved(document: Document, affected: Mapping[int, Affected]) -> tuple[ResolvedFault, ...]:
    return tuple(
        ResolvedFault(
            step=number,
            name=document.method[number].name,
            fault=msgspec.to_builtins(fault),
            containers=tuple(container.shown for container in affected[number].hit),
            peers=tuple(container.shown for container in affected[number].peers),
        )
        for number, fault in document.faults.items()
    )


def _accepted(entity: str, id: str, decision: Decision[Experiment] | Decision[Chaos]) -> Outcome:
    return Outcome(
        accepted=True,
        entity=entity,
        entity_id=id,
        sequence=decision.revision,
        events=tuple(type(event).__name__ for event in decision.events),
    )


def _refused(id: str, decision: Decision[Experiment], refused: ExperimentRefused) -> Outcome:
    return Outcome(
        accepted=False,
        entity=EXPERIMENT.name,
        entity_id=id,
        sequence=decision.revision,
        events=tuple(type(event).__name__ for event in decision.events),
        slug=refused.cause,
        message=f"Experiment {id} is refused: {refused.detail}",
        status=STATUS_OF_REFUSED.get(refused.cause, 409),
    )


def _unknown(command: object) -> CommandRejected:
    message = f"{type(command).__name__} is no command for chaos."
    return CommandRejected(message, slug="unknown-command", status=400)
