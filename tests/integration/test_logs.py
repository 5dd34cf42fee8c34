"""Logs: what a line holds, in both formats, from our own loggers and from the libraries'."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, sys
import structlog
from events.errors import Transient
from infra import logs, telemetry
from infra.settings import Telemetry

logs.configure("scheduler", Telemetry(log_format=sys.argv[1], log_level=sys.argv[2]))
log = structlog.get_logger()
structlog.contextvars.bind_contextvars(task="shop-1")
with telemetry.span("work", trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01"):
    log.info("placed", at_once=3)
    logging.getLogger("nats").warning("slow %s", "consumer")
log.debug("detail")
try:
    raise Transient("the log is away")
except Transient as error:
    log.warning("expected", error=error)
try:
    {}["missing"]
except KeyError:
    logging.getLogger("nats").exception("unexpected")
    log.error("unexpected too", exc_info=True)
"""


def lines(format: str, level: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, format, level]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_json_line_says_when_who_what_and_for_whom() -> None:
    """Time, level, service, event come first; the trace id and what was bound to the context follow."""
    placed, slow, *_ = map(json.loads, lines("json", "info"))
    assert list(placed)[:4] == ["time", "level", "service", "event"]
    assert (
        placed["level"],
        placed["service"],
        placed["event"],
        placed["trace_id"],
        placed["task"],
        placed["at_once"],
    ) == ("info", "scheduler", "placed", "a" * 32, "shop-1", 3)
    assert (slow["level"], slow["event"], slow["trace_id"]) == ("warning", "slow consumer", "a" * 32)


def test_errors_are_one_field() -> None:
    """An expected error has its type and message; only one that nobody foresaw has a traceback as well."""
    *_, expected, library, own = map(json.loads, lines("json", "info"))
    assert expected["error"] == "Transient: the log is away"
    assert "traceback" not in expected
    assert "KeyError: 'missing'" == library["error"] == own["error"]
    assert "Traceback" in library["traceback"]


def test_a_person_sees_no_traceback() -> None:
    """The console format stays one line an entry, unless the level is debug."""
    assert len(lines("console", "info")) == 5
    assert "Traceback" in "\n".join(lines("console", "debug"))


def test_the_level_is_kept() -> None:
    """Lines below the level are not written."""
    assert "detail" not in "\n".join(lines("json", "info"))
    assert "detail" in "\n".join(lines("json", "debug"))
