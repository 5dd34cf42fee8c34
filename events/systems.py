"""A composed system of an environment: the services of its Compose file, as they were seen.

An environment has at most one. What stands here is what calls found and said; how the system is at this moment its
engine knows, and ``compose_status`` asks it.
"""

from __future__ import annotations

import msgspec

from events.kernel import Event

# What a project may allow its Compose files (``ProjectSettings.compose_allow``): keys of a service that reach beyond
# its container, and what else is refused otherwise.
ALLOWABLE = (
    "cap_add",
    "cgroup",
    "cgroup_parent",
    "device_cgroup_rules",
    "devices",
    "driver_opts",
    "drivers",
    "external",
    "group_add",
    "host-gateway",
    "host-paths",
    "host-ports",
    "ipam",
    "ipc",
    "logging",
    "network_mode",
    "pid",
    "privileged",
    "replicas",
    "runtime",
    "security_opt",
    "sockets",
    "sysctls",
    "userns_mode",
    "uts",
    "volumes_from",
)


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True):
    """``address:port`` of the host leads to ``target`` of the container."""

    address: str
    port: int
    target: int
    protocol: str = "tcp"


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """One container of a service. ``status`` is the engine's: created, running, paused, restarting, exited, dead.
    ``health`` is starting, healthy, unhealthy, or empty where the service has no health check."""

    service: str
    container: str
    image: str = ""
    status: str
    health: str = ""
    exit_code: int | None = None
    restarts: int = 0
    ports: tuple[PublishedPort, ...] = ()


class SystemStarted(Event, frozen=True, kw_only=True):
    """Every service runs and is healthy, or has done its one job. ``project`` is the name of the Compose project."""

    call_id: str
    compose_file: str
    project: str
    services: tuple[ServiceState, ...]


class SystemFoundUnhealthy(Event, frozen=True, kw_only=True):
    """It was started, and ``service`` did not come up: ``reason`` says why. What runs of it is left as it is, to be
    looked at."""

    call_id: str
    compose_file: str
    project: str
    service: str
    reason: str
    services: tuple[ServiceState, ...] = ()


class SystemObserved(Event, frozen=True, kw_only=True):
    """Somebody looked, and the services were otherwise than they had been seen last."""

    call_id: str
    services: tuple[ServiceState, ...]


class SystemStopped(Event, frozen=True, kw_only=True):
    """Its containers and networks are removed; ``volumes`` says whether its volumes are, too."""

    reason: str
    volumes: bool = False


class System(msgspec.Struct, frozen=True, kw_only=True):
    """The system of an environment as it was seen last. ``problem`` says what is wrong with it, if anything."""

    project: str = ""
    compose_file: str = ""
    services: tuple[ServiceState, ...] = ()
    problem: str = ""


def evolve(system: System | None, event: Event) -> System | None:
    """What is known of the system after ``event``; None where there is none."""
    match event:
        case SystemStarted():
            return System(project=event.project, compose_file=event.compose_file, services=event.services)
        case SystemFoundUnhealthy():
            return System(
                project=event.project,
                compose_file=event.compose_file,
                services=event.services,
                problem=f"{event.service}: {event.reason}" if event.service else event.reason,
            )
        case SystemObserved():
            return msgspec.structs.replace(system or System(), services=event.services, problem="")
        case SystemStopped():
            return None
        case _:
            return system


EVENTS = (SystemStarted, SystemFoundUnhealthy, SystemObserved, SystemStopped)
