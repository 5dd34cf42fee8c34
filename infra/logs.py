"""Logs: structured lines on standard error, the same for our own loggers and for those of the libraries.

A line is a JSON object (``telemetry.log_format = "json"``) or text for a person (``"console"``) with ``time``,
``level``, ``service``, ``event``, the ``trace_id`` of the work under way and what was bound to it
(``structlog.contextvars.bind_contextvars(task=…, run=…)``). An exception becomes one field ``error`` with its type and
message; its traceback is added only at level debug, or to a JSON line when nobody foresaw the exception.

Usage: ``log = structlog.get_logger()`` anywhere, ``logs.configure`` once at the start of the process.
"""

from __future__ import annotations

import logging
import sys
import traceback

import msgspec
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from events.errors import CairnError
from infra.settings import SettingsInvalid, Telemetry
from infra.telemetry import current_trace

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("json", "console")
_FIRST = ("time", "level", "service", "event")

# Libraries that tell every request at level info.
_TALKATIVE = ("httpx2", "httpcore2", "asyncio", "urllib3")


def configure(service: str, settings: Telemetry) -> None:
    """Route every log of this process to standard error. Raises ``SettingsInvalid`` for an unknown level or format."""
    if settings.log_level not in LEVELS:
        message = f"telemetry.log_level is {settings.log_level!r}; it can be {', '.join(LEVELS)}."
        raise SettingsInvalid(message)
    if settings.log_format not in FORMATS:
        message = f"telemetry.log_format is {settings.log_format!r}; it can be {' or '.join(FORMATS)}."
        raise SettingsInvalid(message)
    level = LEVELS[settings.log_level]
    console = settings.log_format == "console"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _add_service(service),
        _add_trace,
        _flatten_errors(foreseen_too=level == logging.DEBUG, unforeseen_too=not console),
    ]
    render = _renderer(console)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_standard_logging(level, shared, render)


def _route_standard_logging(level: int, shared: list[Processor], render: Processor) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _renderer(console: bool) -> Processor:
    if console:
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time")
    return structlog.processors.JSONRenderer(serializer=_to_json)


def _to_json(fields: EventDict, default: object = None, **_: object) -> str:
    first = {name: fields.pop(name) for name in _FIRST if name in fields}
    return msgspec.json.encode({**first, **fields}, enc_hook=repr).decode()


def _add_service(service: str) -> Processor:
    def add(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
        fields["service"] = service
        return fields

    return add


def _add_trace(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    trace = current_trace()
    if trace:
        fields["trace_id"] = trace[3:35]
    return fields


def described(error: BaseException) -> str:
    """An exception as its one line in a log: type and message."""
    return f"{type(error).__qualname__}: {error}" if str(error) else type(error).__qualname__


def _flatten_errors(*, foreseen_too: bool, unforeseen_too: bool) -> Processor:
    """``error=exception`` and ``exc_info`` become text; the flags say whose traceback is shown."""

    def flatten(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
        given = fields.pop("exc_info", None)
        if given is True:
            given = sys.exc_info()
        if isinstance(given, tuple):
            given = given[1]
        error = given if isinstance(given, BaseException) else fields.get("error")
        if isinstance(error, BaseException):
            fields["error"] = described(error)
            foreseen = isinstance(error, CairnError)
            if foreseen_too or (unforeseen_too and not foreseen):
                fields["traceback"] = "".join(traceback.format_exception(error))
        return fields

    return flatten
