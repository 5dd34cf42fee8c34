"""What may follow for chaos as a whole: it is halted, goes on, and a host says what it can do."""

from __future__ import annotations

from events.chaos import Chaos, ChaosCapabilitiesFound, ChaosHalted, ChaosResumed, HaltChaos, ResumeChaos
from events.kernel import Event

Events = tuple[Event, ...]


def halt(state: Chaos, command: HaltChaos, *, by: str) -> Events:
    return () if state.halted is not None else (ChaosHalted(reason=command.reason, by=by),)


def resume(state: Chaos, command: ResumeChaos, *, by: str) -> Events:
    return (ChaosResumed(reason=command.reason, by=by),) if state.halted is not None else ()


def find_capabilities(state: Chaos, found: ChaosCapabilitiesFound) -> Events:
    return () if state.capabilities == found else (found,)
