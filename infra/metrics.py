"""Metrics: the few numbers that every service keeps, in a Prometheus registry of its own, served at ``/metrics``.

Counts begin at zero with the process; what must survive it is in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from events.kernel import Event

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

COMMANDS_HANDLED = Counter(
    "cairn_commands_handled",
    "Commands that were handled, by what became of them.",
    ("service", "command", "result"),
    registry=REGISTRY,
)
COMMAND_SECONDS = Histogram(
    "cairn_command_seconds",
    "Time from receiving a command to settling it.",
    ("service", "command"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
    registry=REGISTRY,
)
COMMANDS_IN_FLIGHT = Gauge(
    "cairn_commands_in_flight", "Commands in hand now, by durable queue.", ("service", "queue"), registry=REGISTRY
)
EVENTS_APPENDED = Counter(
    "cairn_events_appended", "Events that this process appended to the log.", ("entity", "event"), registry=REGISTRY
)
DEAD_LETTERS = Counter(
    "cairn_dead_letters", "Commands that were given up as dead letters.", ("service", "reason"), registry=REGISTRY
)


def observe_command(service: str) -> Callable[[str, float, str], None]:
    """What ``infra.consumer.Consumer`` calls as ``on_handled(command, seconds, result)``."""

    def observe(command: str, seconds: float, result: str) -> None:
        COMMANDS_HANDLED.labels(service, command, result).inc()
        COMMAND_SECONDS.labels(service, command).observe(seconds)

    return observe


def watch_in_flight(service: str, queue: str, count: Callable[[], int]) -> None:
    """Tell ``count()`` as the commands of ``queue`` that are in hand; it is asked when somebody looks."""
    COMMANDS_IN_FLIGHT.labels(service, queue).set_function(count)


def count_events(entity: str, events: Iterable[Event]) -> None:
    """These events were appended to the log."""
    for event in events:
        EVENTS_APPENDED.labels(entity, type(event).__name__).inc()


def count_dead_letter(service: str, reason: str) -> None:
    """A command of ``service`` was kept as a dead letter."""
    DEAD_LETTERS.labels(service, reason).inc()


def exposition() -> bytes:
    """The present numbers in Prometheus's text format."""
    return generate_latest(REGISTRY)
