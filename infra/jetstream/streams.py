"""The streams of ``events.subjects`` as JetStream knows them, made or verified.

Only what is named here is set and compared; an operator may decide the rest. Durations are nanoseconds.
"""

from __future__ import annotations

from typing import Any

from events import subjects
from events.errors import CairnError
from infra.jetstream.requests import Refused, Requests

SECOND = 1_000_000_000
DUPLICATE_WINDOW = 120 * SECOND
# Longer than the duplicate window and than any lease; a call that nobody took by then is sent again from the log.
CALLS_MAX_AGE = 600 * SECOND
HOSTS_MAX_AGE = 24 * 3600 * SECOND
# Each lease says itself how long it lasts; this bounds what somebody else may put there.
LEASES_MAX_AGE = 3600 * SECOND
OUTPUT_MAX_AGE = 7 * 24 * 3600 * SECOND
OUTPUT_MAX_BYTES = 16 * 1024**3

STREAM_NOT_FOUND = 10059
NAME_IN_USE = 10058


class StreamUnfit(CairnError):
    """A stream is missing or has a setting that Cairn cannot work with; the message names both."""


def stream_configs(tenant: str, replicas: int) -> list[dict[str, Any]]:
    base = {"storage": "file", "num_replicas": replicas, "duplicate_window": DUPLICATE_WINDOW, "discard": "old"}
    facts = {"retention": "limits", "max_age": 0, "max_bytes": -1, "max_msgs": -1}
    queue = base | {"retention": "workqueue", "max_age": 0, "max_msgs": -1}
    return [
        base
        | facts
        | {
            "name": subjects.events_stream(tenant),
            "subjects": [subjects.event(tenant, "*", "*")],
            "max_msgs_per_subject": -1,
            "deny_delete": True,
            "deny_purge": True,
            "allow_direct": True,
            "allow_rollup_hdrs": False,
            "allow_msg_ttl": False,
            "allow_msg_schedules": False,
        },
        queue | {"name": subjects.COMMANDS, "subjects": list(subjects.COMMAND_SUBJECTS)},
        queue
        | {
            "name": subjects.RUNS,
            "subjects": list(subjects.RUN_SUBJECTS),
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
        },
        queue
        | {
            "name": subjects.CALLS,
            "subjects": list(subjects.CALL_SUBJECTS),
            "storage": "memory",
            "max_age": CALLS_MAX_AGE,
        },
        base
        | {
            "name": subjects.OUTPUT,
            "subjects": ["out.>"],
            "retention": "limits",
            "max_age": OUTPUT_MAX_AGE,
            "max_bytes": OUTPUT_MAX_BYTES,
            "allow_direct": True,
        },
        base
        | facts
        | {
            "name": subjects.CONTENT,
            "subjects": ["content.>"],
            "max_msgs_per_subject": 1,
            "allow_direct": True,
        },
        base
        | {
            "name": subjects.LEASES,
            "subjects": ["lease.>"],
            "storage": "memory",
            "retention": "limits",
            "max_msgs_per_subject": 1,
            "max_age": LEASES_MAX_AGE,
            "allow_msg_ttl": True,
            "allow_direct": True,
        },
        base
        | {
            "name": subjects.HOSTS,
            "subjects": ["host.>"],
            "storage": "memory",
            "retention": "limits",
            "max_msgs_per_subject": 1,
            "max_age": HOSTS_MAX_AGE,
        },
        base | facts | {"name": subjects.DEAD_LETTERS, "subjects": ["dead.>"], "allow_direct": True},
    ]


async def make_streams(requests: Requests, tenant: str, replicas: int) -> None:
    """Create what is missing, change what differs. Idempotent, and safe for several processes at once."""
    requests.replicated = replicas > 1
    for config in stream_configs(tenant, replicas):
        name = config["name"]
        try:
            actual = await _stream(requests, name)
            if actual is not None and actual.get("num_replicas", 1) > replicas:
                # Somebody made it safer than the settings ask for.
                config["num_replicas"] = actual["num_replicas"]
                requests.replicated = True
            if actual is None:
                try:
                    await requests.api(f"STREAM.CREATE.{name}", config)
                except Refused as error:
                    if error.code != NAME_IN_USE:
                        raise
                    await requests.api(f"STREAM.UPDATE.{name}", config)
            elif _differences(config, actual):
                await requests.api(f"STREAM.UPDATE.{name}", actual | config)
        except Refused as error:
            message = f"NATS refuses the stream {name}: {error}. Wanted: {_wanted(config)}."
            raise StreamUnfit(message) from error


async def verify_streams(requests: Requests, tenant: str, replicas: int) -> None:
    """Raise ``StreamUnfit`` for the first stream that is missing or differs in what Cairn relies on."""
    replicated = False
    for config in stream_configs(tenant, replicas):
        name = config["name"]
        actual = await _stream(requests, name)
        if actual is None:
            message = (
                f"The stream {name} does not exist, and nats.manage_streams is false. Make it with {_wanted(config)}."
            )
            raise StreamUnfit(message)
        replicated = replicated or actual.get("num_replicas", 1) > 1
        for key, wanted, found in _differences(config, actual):
            if key in {"max_bytes", "max_age", "max_msgs", "num_replicas"} and name != subjects.events_stream(tenant):
                continue  # How much of these is kept, and how safely, is the operator's to decide.
            if key == "storage" and name in {subjects.CALLS, subjects.HOSTS, subjects.LEASES}:
                continue  # A file costs time, and survives a restart that nobody is there to repair.
            if key == "num_replicas" and isinstance(found, int) and found >= replicas:
                continue
            message = f"The stream {name} has {key} = {found!r}; Cairn needs {wanted!r}. Change the stream."
            raise StreamUnfit(message)
    requests.replicated = replicated


async def _stream(requests: Requests, name: str) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = (await requests.api(f"STREAM.INFO.{name}"))["config"]
    except Refused as error:
        if error.code == STREAM_NOT_FOUND:
            return None
        raise
    return config


def _differences(wanted: dict[str, Any], actual: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What is not as wanted. The server leaves out what is false."""
    found = []
    for key, value in wanted.items():
        present = actual.get(key, False if isinstance(value, bool) else 0)
        same = sorted(present) == sorted(value) if isinstance(value, list) else present == value
        if not same:
            found.append((key, value, present))
    return found


def _wanted(config: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in config.items() if key != "name")
