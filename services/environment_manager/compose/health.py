"""When a system is up: what its containers show, followed over time. Pure.

A service with a health check is up when it is healthy. One without is up when it has run for a while without a restart:
that a container runs says little, as most failures come a moment later. One that ended with exit code 0 has done its
job. It fails with another exit code, when it stays unhealthy, and when it is restarted again and again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from events.systems import ServiceState

SETTLE_SECONDS = 3.0
RESTARTS_LIMIT = 3


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A container as the engine shows it now. ``started_at`` differs after every start; ``said`` is the last output of
    its health check, or why the engine could not start it."""

    id: str
    state: ServiceState
    started_at: str = ""
    said: str = ""


class Failed(msgspec.Struct, frozen=True):
    """This container does not come up, and why."""

    seen: Seen
    reason: str


class Watch:
    """Follows the containers of one system from one moment on. Times are seconds of any clock that only goes on."""

    def __init__(self) -> None:
        self._restarts: dict[str, int] = {}
        self._since: dict[tuple[str, str, str], float] = {}

    def look(self, containers: Sequence[Seen], now: float) -> Failed | list[str]:
        """What has failed, or what is still waited for, in words; with neither, the system is up."""
        waiting = [] if containers else ["there is no container yet"]
        for seen in containers:
            answer = self._look(seen, now)
            if isinstance(answer, Failed):
                return answer
            if answer:
                waiting.append(f"{seen.state.service} {answer}")
        return waiting

    def _look(self, seen: Seen, now: float) -> Failed | str:
        state = seen.state
        restarts = state.restarts - self._restarts.setdefault(seen.id, state.restarts)
        if restarts >= RESTARTS_LIMIT:
            return Failed(seen, f"is restarted again and again ({restarts} times{_code(state)})")
        if state.status == "exited" and state.exit_code == 0:
            return ""
        if state.status in ("exited", "dead"):
            # One that the engine is to restart is seen like this for a moment.
            return self._after(seen, now, Failed(seen, f"ended with exit code {state.exit_code}"), "has ended")
        if state.status == "paused":
            return Failed(seen, "is paused")
        if state.status == "created" and seen.said:
            return Failed(seen, "could not be started")
        if state.status != "running":
            return f"is {state.status}"
        if state.health == "unhealthy":
            return self._after(seen, now, Failed(seen, "is unhealthy"), "is unhealthy")
        if state.health == "healthy":
            return ""
        if state.health:
            return "is not healthy yet"
        return self._after(seen, now, "", "has just started")

    def _after(self, seen: Seen, now: float, settled: Failed | str, until_then: str) -> Failed | str:
        """``settled`` where it has been like this for a while, else ``until_then``."""
        since = self._since.setdefault((seen.id, seen.started_at, seen.state.status + seen.state.health), now)
        return settled if now - since >= SETTLE_SECONDS else until_then


def _code(state: ServiceState) -> str:
    return f", last exit code {state.exit_code}" if state.exit_code else ""


def suspects(containers: Sequence[Seen]) -> list[Failed]:
    """Those that are not as they should be at this moment, the worst first: where Compose gave up by itself."""
    found = [(number, seen, why) for seen in containers for number, why in [_suspicion(seen)] if why]
    return [Failed(seen, why) for _, seen, why in sorted(found, key=lambda item: item[0])]


def _suspicion(seen: Seen) -> tuple[int, str]:
    """How bad it is (0 is the worst), and what it is; empty where all is well."""
    state = seen.state
    if state.status in ("exited", "dead") and state.exit_code != 0:
        return 0, f"ended with exit code {state.exit_code}"
    if state.status == "created" and seen.said:
        return 0, "could not be started"
    if state.health == "unhealthy":
        return 1, "is unhealthy"
    return 2, f"is {state.status}" if state.status in ("restarting", "paused") else ""
