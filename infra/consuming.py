"""A service's command consumers, all made in one way: traced, counted, with leases that survive the process."""

from __future__ import annotations

from collections.abc import Sequence

from infra.consumer import Consumer
from infra.metrics import observe_command
from infra.ports import CommandHandler
from infra.service import Runtime
from infra.telemetry import processing

# After so long a command is handed out again whose process died or stands still. Mostly its successor on the host gives
# it back at once (``infra.leases``), but not what was on its way into the process when it died. One that lives and
# stands still for longer has the command handled twice, which costs time only.
LEASE_SECONDS = 5.0


def consumer(
    runtime: Runtime,
    *,
    durable: str,
    stream: str,
    filters: Sequence[str],
    handler: CommandHandler,
    concurrency: int,
    lease_seconds: float = LEASE_SECONDS,
    remember_leases: bool = True,
) -> Consumer:
    """``durable`` is shared by all processes that take from the same queue. ``remember_leases`` costs a file for each
    command in hand; it is for those that are held for long."""
    jetstream = runtime.jetstream
    return Consumer(
        jetstream.source,
        jetstream.commands,
        jetstream.dead_letters,
        service=runtime.name,
        durable=durable,
        stream=stream,
        filters=filters,
        handler=handler,
        concurrency=concurrency,
        lease_seconds=lease_seconds,
        leases=runtime.leases(durable, lease_seconds) if remember_leases else None,
        around=processing,
        on_handled=observe_command(runtime.name),
    )
