"""What every process of ours does: it ends well on a signal, and tells in a file where it answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import structlog

from events.errors import Permanent

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_SETTINGS = 2

log = structlog.get_logger()


def stop_signal() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process."""
    asked = asyncio.Event()

    def receive(number: signal.Signals) -> None:
        if asked.is_set():
            log.warning("ended at once by a second signal", signal=number.name)
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, receive, number)
    return asked


@contextlib.contextmanager
def run_file(path: Path, url: str) -> Iterator[None]:
    """While it runs, ``path`` tells where this process answers. Raises ``Permanent`` where it cannot be written."""
    content = json.dumps({"pid": os.getpid(), "health": url})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): set home to a folder that can be, with space left."
        raise Permanent(message, slug="home") from error
    try:
        yield
    finally:
        # Another process of the same name may have taken the file over.
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == content:
                path.unlink()
