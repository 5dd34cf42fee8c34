"""What an agent, or a person, is shown of a system. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from events.systems import ServiceState

LIMIT_CHARACTERS = 28_000


def up(compose_file: str, services: Sequence[ServiceState], changes: Sequence[str], *, joined: bool) -> str:
    """A system that is up, how its services are reached, and what of it is otherwise than in its file."""
    if joined:
        reach = "From here the services are reached by their names and own ports; from the host as shown."
    elif any(state.ports for state in services):
        reach = "The services are reached at the ports of 127.0.0.1 that are shown."
    else:
        reach = "No service publishes a port: compose_exec reaches into them."
    return "\n".join([f"{compose_file} is up.", table(services), reach, *changes])


def table(services: Sequence[ServiceState]) -> str:
    """One line for each container."""
    return "\n".join(_line(state) for state in services)


def _line(state: ServiceState) -> str:
    words = [state.status]
    if state.health:
        words.append(state.health)
    if state.exit_code is not None:
        words.append(f"exit code {state.exit_code}")
    if state.restarts:
        words.append(f"{state.restarts} restarts")
    words += [f"{port.address}:{port.port} -> {port.target}/{port.protocol}" for port in state.ports]
    return f"{state.service} ({state.container}): {', '.join(words)}"


def tail(text: str, limit: int = LIMIT_CHARACTERS) -> str:
    """The end of what was printed."""
    if len(text) <= limit:
        return text
    return f"[… the first {len(text) - limit} characters are left out]\n{text[-limit:]}"
