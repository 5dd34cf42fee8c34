"""The tools of composed systems: bring one up, look at it, work in it, take it down.

What may run is looked at first (``compose.sources``, ``compose.guard``), and then exactly that runs. A call can be
executed again after any crash: Compose brings what is there in line with the file, whatever the time before left.
Failures name the service, why, and its last lines. Where no engine answers, a call fails at once.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from functools import partial

import structlog

from events.environment import Environment
from events.errors import Permanent, Transient
from events.kernel import Event
from events.project import PROJECT, ProjectSettings
from events.systems import ServiceState, SystemFoundUnhealthy, SystemObserved, SystemStarted, SystemStopped
from events.task_state import TASK
from events.tools import ComposeDown, ComposeExec, ComposeStatus, ComposeUp, RestartService, TailLogs
from infra.docker import labels
from infra.ports import EventLog
from services.environment_manager.compose import guard, shown, sources
from services.environment_manager.compose.health import Failed, Seen, Watch, suspects
from services.environment_manager.compose.refusal import raise_if_refused
from services.environment_manager.operations import Asked, Done, Operation, Operations
from services.environment_manager.ports import Systems
from services.environment_manager.tools import ToolRefused

logger = structlog.get_logger()

POLL_SECONDS = 0.2
PORT_ATTEMPTS = 3
LOG_LINES = 30
SAID_CHARACTERS = 1_000
NONE_UP = "No system is up in this environment: start one with compose_up."


class ComposedSystems:
    """``tenant`` and ``host`` go into the labels of what is made."""

    def __init__(self, systems: Systems, log: EventLog, *, tenant: str, host: str) -> None:
        self._systems = systems
        self._log = log
        self._tenant = tenant
        self._host = host

    def operations(self) -> Operations:
        work: dict[type, Operation] = {
            ComposeUp: self._up,
            ComposeDown: self._down,
            ComposeStatus: self._status,
            ComposeExec: self._execute,
            RestartService: self._restart,
            TailLogs: self._logs,
        }
        return {kind: partial(_answered, operation) for kind, operation in work.items()}

    # ---- what the keeper needs

    async def take_down(self, environment: Environment) -> None:
        """With volumes and images. Raises ``Transient`` where the engine does not answer and there may be a system."""
        if environment.composed or environment.id in await self.leftover():
            await self._systems.down(environment.id, volumes=True)
            logger.info("system removed", environment=environment.id)

    async def leftover(self) -> set[str]:
        """The environments that the engine holds anything of; none where no engine answers."""
        try:
            return await self._systems.leftover()
        except Transient:
            return set()

    # ---- up

    async def _up(self, asked: Asked) -> Done:
        arguments = asked.arguments
        assert isinstance(arguments, ComposeUp)
        deadline = asyncio.get_running_loop().time() + arguments.timeout_seconds
        workspace, id = asked.directory / "workspace", asked.environment.id
        settings, known = await self._project_of(asked.environment)
        allowed = settings.compose_allow if settings is not None else ()
        compose_file = await asyncio.to_thread(sources.find, workspace, arguments.compose_file)
        raise_if_refused(compose_file, await asyncio.to_thread(sources.refusals, workspace, compose_file), allowed)
        project = self._systems.project(id)
        model = await self._systems.model(workspace, compose_file, project, asked.variables)
        before = await self._systems.containers(id)
        for seen in before:
            if seen.state.status == "paused":
                await self._systems.unpause(seen.id)
        identity = {
            labels.TENANT: self._tenant,
            labels.HOST: self._host,
            labels.ENVIRONMENT: id,
            **known,
            **self._systems.labels(),
        }
        for attempt in range(1, PORT_ATTEMPTS + 1):
            ports = _Ports(self._systems, before)
            checked = guard.check(
                model,
                compose_file=compose_file,
                workspace=workspace,
                project=project,
                labels=identity,
                variables=asked.variables.keys(),
                allowed=allowed,
                choose_port=ports.choose,
            )
            for directory in checked.directories:
                directory.mkdir(parents=True, exist_ok=True)
            try:
                await self._systems.up(
                    project,
                    checked.model,
                    workspace=workspace,
                    variables=asked.variables,
                    build=arguments.build,
                    seconds=max(deadline - asyncio.get_running_loop().time(), 1.0),
                    say=asked.say,
                )
            except Permanent as error:
                present = await self._systems.containers(id)
                if attempt < PORT_ATTEMPTS and ports.taken_by_others(present):
                    await asked.say("a port was taken by somebody else meanwhile; trying others\n")
                    continue
                return await self._unhealthy(asked, compose_file, next(iter(suspects(present)), None), error)
            break
        joined = await self._systems.join(id)
        wanted = None
        failed = await self._settled(asked, wanted, deadline)
        if isinstance(failed, Failed):
            return await self._unhealthy(asked, compose_file, failed, None)
        services = _states(failed)
        started = SystemStarted(
            call_id=asked.command.call_id, compose_file=compose_file, project=project, services=services
        )
        return Done(text=shown.up(compose_file, services, checked.changes, joined=joined), facts=(started,))

    async def _settled(self, asked: Asked, service: str | None, deadline: float) -> Failed | list[Seen]:
        """Wait until the system, or one service of it, is up: its containers then, or what has failed."""
        watch, loop, said = Watch(), asyncio.get_running_loop(), ""
        while True:
            containers = await self._systems.containers(asked.environment.id)
            ours = [seen for seen in containers if service is None or seen.state.service == service]
            found = watch.look(ours, loop.time())
            if isinstance(found, Failed):
                return found
            if not found:
                return containers
            if loop.time() >= deadline:
                late = next((seen for seen in ours if found[0].startswith(f"{seen.state.service} ")), None)
                reason = f"did not come up in time: it {found[0].partition(' ')[2]}"
                return Failed(late or Seen(id="", state=ServiceState(service="", container="", status="")), reason)
            if "; ".join(found) != said:
                said = "; ".join(found)
                await asked.say(f"waiting: {said}\n")
            await asyncio.sleep(POLL_SECONDS)

    async def _unhealthy(self, asked: Asked, compose_file: str, failed: Failed | None, error: Permanent | None) -> Done:
        """The failure with the service, why, and its last lines; what runs is left as it is."""
        present = await self._systems.containers(asked.environment.id)
        parts = [str(error)] if error is not None else []
        cause, detail = (error.slug, str(error)) if error is not None else ("system-unhealthy", "")
        if failed is not None:
            cause = "system-unhealthy"
            detail = f"service {failed.seen.state.service} {failed.reason}."
            parts.append(await self._why(failed))
        facts: tuple[Event, ...] = ()
        if present:
            detail = (
                detail.rstrip(".")
                + ". What was started of it is left to be looked at: tail_logs, compose_exec, compose_down."
            )
            facts = (
                SystemFoundUnhealthy(
                    call_id=asked.command.call_id,
                    compose_file=compose_file,
                    project=self._systems.project(asked.environment.id),
                    service=failed.seen.state.service if failed is not None else "",
                    reason=failed.reason if failed is not None else f"Compose did not start it ({cause})",
                    services=_states(present),
                ),
            )
        text = "\n\n".join([part for part in parts if part] + ([shown.table(_states(present))] if present else []))
        return Done(text=text, cause=cause, detail=detail.strip(), facts=facts)

    async def _why(self, failed: Failed) -> str:
        """What the service itself says of it."""
        said = failed.seen.said[-SAID_CHARACTERS:]
        health = f"{failed.seen.state.service} {failed.reason}. It says: {said}\n" if said else ""
        if not failed.seen.id:
            return health
        logs = (await self._systems.logs(failed.seen.id, LOG_LINES)).rstrip()
        return f"{health}The last lines of {failed.seen.state.service}:\n{shown.tail(logs) or '(none)'}"

    # ---- the other tools

    async def _down(self, asked: Asked) -> Done:
        arguments = asked.arguments
        assert isinstance(arguments, ComposeDown)
        id = asked.environment.id
        was = await self._systems.containers(id)
        await self._systems.down(id, volumes=arguments.volumes, say=asked.say)
        stopped = SystemStopped(reason="compose_down", volumes=arguments.volumes)
        what = "its volumes are removed" if arguments.volumes else "its volumes are kept"
        text = f"The system is down ({len(was)} containers); {what}." if was else f"No system was up; {what}."
        return Done(text=text, facts=(stopped,) if asked.environment.system is not None else ())

    async def _status(self, asked: Asked) -> Done:
        containers = await self._systems.containers(asked.environment.id)
        services = _states(containers)
        return Done(text=shown.table(services) if services else NONE_UP, facts=_observed(asked, services))

    async def _execute(self, asked: Asked) -> Done:
        arguments = asked.arguments
        assert isinstance(arguments, ComposeExec)
        found = await self._of(asked, arguments.service)
        seen = next((seen for seen in found if seen.state.status == "running"), None)
        if seen is None:
            detail = f"service {arguments.service} is {found[0].state.status}; restart_service starts it."
            return Done(cause="service-not-running", detail=detail)
        ran = await self._systems.execute(seen.id, arguments.command, arguments.timeout_seconds)
        await asked.say(ran.text)
        text = shown.tail(ran.text)
        if ran.exit_code is None:
            detail = f"the command did not end within {arguments.timeout_seconds:g} seconds, and was ended."
            return Done(cause="timed-out", detail=detail, text=text)
        return Done(text=text, exit_code=ran.exit_code)

    async def _restart(self, asked: Asked) -> Done:
        arguments = asked.arguments
        assert isinstance(arguments, RestartService)
        deadline = asyncio.get_running_loop().time() + arguments.timeout_seconds
        for seen in await self._of(asked, arguments.service):
            if seen.state.status == "paused":
                await self._systems.unpause(seen.id)
            await asked.say(f"restarting {seen.state.container}\n")
            await self._systems.restart(seen.id)
        settled = await self._settled(asked, arguments.service, deadline)
        if isinstance(settled, Failed):
            services = _states(await self._systems.containers(asked.environment.id))
            return Done(
                text=await self._why(settled),
                cause="system-unhealthy",
                detail=f"service {arguments.service} {settled.reason}.",
                facts=_observed(asked, services),
            )
        services = _states(settled)
        text = f"Restarted.\n{shown.table([item for item in services if item.service == arguments.service])}"
        return Done(text=text, facts=_observed(asked, services))

    async def _logs(self, asked: Asked) -> Done:
        arguments = asked.arguments
        assert isinstance(arguments, TailLogs)
        found = await self._of(asked, arguments.service)
        printed = [(seen, await self._systems.logs(seen.id, arguments.lines)) for seen in found]
        if len(printed) == 1:
            return Done(text=shown.tail(printed[0][1]))
        share = shown.LIMIT_CHARACTERS // len(printed)
        return Done(text="\n".join(f"== {seen.state.container}\n{shown.tail(text, share)}" for seen, text in printed))

    async def _of(self, asked: Asked, service: str) -> list[Seen]:
        """The containers of a service, or of all. Raises ``ToolRefused`` where there are none."""
        containers = await self._systems.containers(asked.environment.id)
        if not containers:
            raise ToolRefused("system-missing", NONE_UP)
        found = [seen for seen in containers if service in ("", seen.state.service)]
        if not found:
            names = sorted({seen.state.service for seen in containers})
            near = difflib.get_close_matches(service, names, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            detail = f"There is no service {service!r}; there are {', '.join(names)}.{meant}"
            raise ToolRefused("service-unknown", detail)
        return found

    async def _project_of(self, environment: Environment) -> tuple[ProjectSettings | None, dict[str, str]]:
        """The settings of the environment's project as they are now, and the labels that tell what it belongs to."""
        assert environment.prepared is not None
        task_id, name = environment.prepared.task_id, environment.prepared.project
        if not name and task_id:
            records = await self._log.load(TASK.name, task_id)
            task = TASK.fold(task_id, [event for record in records for event in record.envelope.events])
            name = task.submitted.specification.project if task.submitted is not None else ""
        records = await self._log.load(PROJECT.name, name) if name else []
        project = PROJECT.fold(name, [event for record in records for event in record.envelope.events])
        known = {labels.PROJECT: name, labels.TASK: task_id}
        return project.settings, {key: value for key, value in known.items() if value}


class _Ports:
    """Ports of the host: a service keeps those that it has, others get free ones."""

    def __init__(self, systems: Systems, before: Sequence[Seen]) -> None:
        self._systems = systems
        self._kept = {
            (seen.state.service, port.target, port.protocol): port.port for seen in before for port in seen.state.ports
        }
        self._chosen: set[int] = set()

    def choose(self, service: str, target: int, protocol: str) -> int:
        kept = self._kept.pop((service, target, protocol), 0)
        port = kept or self._systems.free_port()
        while port in self._chosen:
            port = self._systems.free_port()
        self._chosen.add(port)
        return port

    def taken_by_others(self, present: Sequence[Seen]) -> bool:
        """Whether somebody else has one of the chosen ports by now."""
        ours = {port.port for seen in present if seen.state.status == "running" for port in seen.state.ports}
        return any(not self._systems.is_free(port) for port in self._chosen - ours)


async def _answered(operation: Operation, asked: Asked) -> Done:
    """What cannot be done is the answer of the call: nobody waits for an engine that is away."""
    try:
        return await operation(asked)
    except Transient as error:
        return Done(cause="engine-unavailable", detail=str(error))
    except Permanent as error:
        return Done(cause=error.slug, detail=str(error))
    except ToolRefused as error:
        return Done(cause=error.cause, detail=str(error))


def _observed(asked: Asked, services: tuple[ServiceState, ...]) -> tuple[Event, ...]:
    """A fact where the services are otherwise than the log has them."""
    known = asked.environment.system.services if asked.environment.system is not None else ()
    if services == known:
        return ()
    if not services:
        return (SystemStopped(reason="it is gone"),)
    return (SystemObserved(call_id=asked.command.call_id, services=services),)


def _states(containers: Sequence[Seen]) -> tuple[ServiceState, ...]:
    return tuple(seen.state for seen in containers)
