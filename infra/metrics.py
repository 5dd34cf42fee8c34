"""Metrics: the few numbers that every service keeps, in a Prometheus registry of its own, served at ``/metrics``.

Counts begin at zero with the process; what must survive it is in the log.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

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
    "cairn_commands_in_flight", "Commands that are being handled now.", ("service",), registry=REGISTRY
)
EVENTS_APPENDED = Counter(
    "cairn_events_appended", "Events that this process appended to the log.", ("entity", "event"), registry=REGISTRY
)
DEAD_LETTERS = Counter(
    "cairn_dead_letters", "Commands that were given up as dead letters.", ("service", "reason"), registry=REGISTRY
)


def observe_command(service: str, command: str, result: str, seconds: float) -> None:
    """One command was handled: ``result`` is a short word such as ``handled``, ``rejected``, ``retried``, ``dead``."""
    COMMANDS_HANDLED.labels(service, command, result).inc()
    COMMAND_SECONDS.labels(service, command).observe(seconds)


def exposition() -> bytes:
    """The present numbers in Prometheus's text format."""
    return generate_latest(REGISTRY)
