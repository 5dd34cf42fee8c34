"""A receiver of OTLP/HTTP traces for tests: a real server on a free port that keeps the spans it is sent."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True)
class ReceivedSpan:
    """Ids are lower-case hex; ``parent_id`` is empty for a root. ``kind`` is as in ``SPAN_KIND_CLIENT``: ``client``."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, object]
    failed: bool
    message: str


@dataclass
class OtlpReceiver:
    url: str
    spans: list[ReceivedSpan] = field(default_factory=list)

    def wait_for(self, enough: Callable[[list[ReceivedSpan]], bool], *, timeout_seconds: float = 10.0) -> None:
        """Return when ``enough(spans)`` holds; fails with what there is otherwise."""
        deadline = time.monotonic() + timeout_seconds
        while not enough(self.spans):
            assert time.monotonic() < deadline, f"not enough spans in time: {self.described()}"
            time.sleep(0.02)

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def described(self) -> str:
        return "\n".join(
            f"{s.trace_id[:8]} {s.parent_id or '-':16} {s.span_id} {s.service} {s.name}" for s in self.spans
        )

    def assert_one_trace(self, trace_id: str = "") -> None:
        """All spans (of ``trace_id`` if given) are of one trace with one root, and every parent is present."""
        spans = self.trace(trace_id) if trace_id else self.spans
        assert spans, "no spans were received"
        assert len({span.trace_id for span in spans}) == 1, self.described()
        known = {span.span_id for span in spans}
        assert [s for s in spans if s.parent_id and s.parent_id not in known] == [], self.described()
        assert len([s for s in spans if not s.parent_id]) == 1, self.described()


@contextmanager
def otlp_receiver(host: str = "127.0.0.1") -> Iterator[OtlpReceiver]:
    """A running receiver at an address of this machine; its ``url`` goes into ``telemetry.otlp_endpoint``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                receiver.spans.extend(_spans(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    receiver = OtlpReceiver(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(body: bytes) -> Iterator[ReceivedSpan]:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    request = ExportTraceServiceRequest.FromString(body)
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield ReceivedSpan(
                    service=str(resource.get("service.name", "")),
                    name=span.name,
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    failed=span.status.code == Status.STATUS_CODE_ERROR,
                    message=span.status.message,
                )


def _attributes(pairs: object) -> dict[str, object]:
    found: dict[str, object] = {}
    pair: KeyValue
    for pair in pairs:  # type: ignore[attr-defined]  # a repeated protobuf field
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind) if kind else None
        found[pair.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found
