"""Traces: who led to what, across processes, through the ``traceparent`` that every message carries.

``span`` begins a piece of work and makes its trace context the current one; ``started_span`` is for work that ends
in another function. The parent is the ``trace`` that was given (of a message), else the current context, else there
is none and a new trace begins.

Without an OTLP endpoint nothing is measured and the SDK is not imported: a span hands its parent's context on as it
is, a root makes a random one, so that logs and events of one chain still share a trace id. With an endpoint
(``telemetry.otlp_endpoint`` or ``OTEL_EXPORTER_OTLP_ENDPOINT``) spans are real and leave by OTLP/HTTP in batches.
A receiver that is away loses spans, never work.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from contextvars import ContextVar, Token
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING

from events.envelope import CommandEnvelope
from infra import semantics
from infra.settings import Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as RecordingSpan
    from opentelemetry.trace import Tracer

Attribute = str | int | float | bool | tuple[str, ...]

# Spans wait at most this long before they are sent; their receiver may take this long; the end of the process waits
# this long for the last of them.
SCHEDULE_MILLISECONDS = 500
EXPORT_SECONDS = 5
LAST_EXPORT_SECONDS = 2

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")

_current: ContextVar[str] = ContextVar("trace", default="")


def current_trace() -> str:
    """The W3C traceparent of the work under way here, or empty."""
    return _current.get()


def new_trace() -> str:
    """The traceparent of a trace that begins here."""
    digits = f"{random.getrandbits(192):048x}"
    return f"00-{digits[:32]}-{digits[32:]}-01"


def valid_trace(value: str | None) -> str:
    """``value`` if it is a traceparent, else empty: for headers that come from outside."""
    return value if value is not None and _TRACEPARENT.match(value) else ""


class Span:
    """A piece of work. ``trace`` is its traceparent, to be put on what it sends.

    Used with ``with``, it is current inside, and an exception that leaves it marks it failed; without, ``end`` ends it.
    """

    __slots__ = ("_token", "trace")

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def set(self, key: str, value: Attribute) -> None:
        """Add an attribute; its name comes from ``infra.semantics``."""

    def fail(self, message: str) -> None:
        """Mark the work as failed."""

    def end(self) -> None:
        """The work is over. Ending twice is harmless."""

    def __enter__(self) -> Span:
        self._token: Token[str] = _current.set(self.trace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        if error is not None:
            self._fail_with(error)
        self.end()

    def _fail_with(self, error: BaseException) -> None:
        pass


class _ExportedSpan(Span):
    __slots__ = ("_span",)

    def __init__(self, recording: RecordingSpan) -> None:
        context = recording.get_span_context()
        super().__init__(f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}")
        self._span = recording

    def set(self, key: str, value: Attribute) -> None:
        self._span.set_attribute(key, value)

    def fail(self, message: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR, message)

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()

    def _fail_with(self, error: BaseException) -> None:
        self.set(semantics.ERROR_TYPE, type(error).__qualname__)
        self.fail(str(error))


_tracer: Tracer | None = None
_provider: TracerProvider | None = None


def started_span(
    name: str,
    *,
    kind: str = semantics.INTERNAL,
    trace: str = "",
    attributes: Mapping[str, Attribute] | None = None,
) -> Span:
    """A span that has begun, is not the current one, and must be ended by ``end``.

    ``trace`` is the parent's traceparent, the current one where it is empty; ``kind`` is one of ``infra.semantics``.
    """
    parent = trace or _current.get()
    if _tracer is None:
        return Span(parent or new_trace())
    return _exported(_tracer, name, kind, parent, attributes)


# The same object serves both ways; two names tell the reader whether it becomes current.
span = started_span


def _exported(
    tracer: Tracer, name: str, kind: str, parent: str, attributes: Mapping[str, Attribute] | None
) -> _ExportedSpan:
    from opentelemetry import context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context

    around = context.Context()
    if valid_trace(parent):
        _, trace_id, span_id, flags = parent.split("-")
        remote = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
        around = set_span_in_context(NonRecordingSpan(remote), around)
    return _ExportedSpan(
        tracer.start_span(name, context=around, kind=SpanKind[kind.upper()], attributes=dict(attributes or {}))
    )


def processing(envelope: CommandEnvelope) -> Span:
    """The span of handling a command that came through a queue; a child of whoever sent it."""
    if _tracer is None:
        return started_span("", trace=envelope.trace)
    name = type(envelope.command).__name__
    attributes: dict[str, Attribute] = {
        semantics.MESSAGING_SYSTEM: semantics.NATS,
        semantics.MESSAGING_OPERATION_TYPE: semantics.PROCESS,
        semantics.MESSAGING_MESSAGE_ID: envelope.id,
        semantics.COMMAND: name,
        semantics.ENTITY: envelope.entity,
        semantics.ENTITY_ID: envelope.entity_id,
    }
    return started_span(f"process {name}", kind=semantics.CONSUMER, trace=envelope.trace, attributes=attributes)


def configure(service: str, settings: Telemetry) -> None:
    """Export the spans of this process as service ``cairn-<service>`` if an endpoint is set. Call once, at start."""
    global _tracer, _provider
    # The SDK reads its own variables, the one for traces alone included.
    by_environment = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    )
    if not settings.otlp_endpoint and not by_environment:
        return
    from importlib.metadata import version

    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces" if settings.otlp_endpoint else None
    resource = Resource.create(
        {semantics.SERVICE_NAME: f"cairn-{service}", semantics.SERVICE_VERSION: version("cairn")}
    )
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
    _provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SCHEDULE_MILLISECONDS))
    _tracer = _provider.get_tracer("cairn")


def shutdown() -> None:
    """Send what is left and stop exporting. Blocks, for ``LAST_EXPORT_SECONDS`` at most."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider is not None:
        # The SDK would wait for half a minute where the receiver is away.
        last_sending = Thread(target=provider.shutdown, daemon=True)
        last_sending.start()
        last_sending.join(LAST_EXPORT_SECONDS)
