"""Starts the notifier."""

from __future__ import annotations

import sys

from infra.secrets import resolve
from infra.service import Runtime, run
from services.notifier import policy
from services.notifier.adapters.position import PositionFile
from services.notifier.adapters.webhook import WebhookSender
from services.notifier.notifier import Notifier


class _Running:
    """The notifier and the connections of its sender, stopped together."""

    def __init__(self, notifier: Notifier, sender: WebhookSender) -> None:
        self._notifier = notifier
        self._sender = sender

    async def stop(self) -> None:
        await self._notifier.stop()
        await self._sender.close()


async def start(runtime: Runtime) -> _Running:
    settings = runtime.settings
    policy.check(settings.webhooks)
    sender = WebhookSender(settings.tenant, settings.webhooks, resolve, runtime.clock)
    positions = PositionFile(settings.home_path / "notifier" / "position")
    notifier = Notifier(runtime.jetstream.log, runtime.clock, settings.webhooks, sender, positions, runtime.guard)
    await notifier.start()
    return _Running(notifier, sender)


def main() -> int:
    return run("notifier", start)


if __name__ == "__main__":
    sys.exit(main())
