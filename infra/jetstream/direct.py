"""Stored messages read without a consumer: direct get, answered from the stream itself.

A single message costs a round trip. A batch comes as many replies to one request and ends with status 204. Where a
stream has replicas, any of them may answer and be a little behind: then the stream's leader is asked first what there
is to be found, which costs a round trip more.
"""

from __future__ import annotations

import asyncio
import base64
import functools
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from events.errors import Transient
from infra.jetstream.requests import Lost, Refused, Requests, header_value, status_of

BATCH = 1000
SILENCE_SECONDS = 5.0
BEHIND_SECONDS = 0.01
NO_MESSAGE = 10037


class StoredMessage(NamedTuple):
    sequence: int
    time: str
    subject: str
    headers: bytes
    data: bytes

    @property
    def stored_at(self) -> datetime:
        return server_time(self.time)


def server_time(text: str) -> datetime:
    """A time of the server's, which has nanoseconds."""
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00")


def _message(headers: bytes, data: bytes) -> StoredMessage:
    return StoredMessage(
        sequence=int(header_value(headers, b"Nats-Sequence")),
        time=header_value(headers, b"Nats-Time-Stamp"),
        subject=header_value(headers, b"Nats-Subject"),
        headers=headers,
        data=data,
    )


async def read_last(requests: Requests, stream: str, subject: str) -> StoredMessage | None:
    """The last message of a subject."""
    if requests.replicated:
        return await read_from_leader(requests, stream, {"last_by_subj": subject})
    return await _read_one(requests, f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")


async def read_only(requests: Requests, stream: str, subject: str) -> StoredMessage | None:
    """The message of a subject that never has a different one."""
    message = await _read_one(requests, f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")
    return await read_last(requests, stream, subject) if message is None and requests.replicated else message


async def read_at(requests: Requests, stream: str, sequence: int) -> StoredMessage | None:
    message = await _read_one(requests, f"$JS.API.DIRECT.GET.{stream}", b'{"seq":%d}' % sequence)
    if message is None and requests.replicated:
        return await read_from_leader(requests, stream, {"seq": sequence})
    return message


async def _read_one(requests: Requests, subject: str, body: bytes) -> StoredMessage | None:
    async def once() -> StoredMessage | None:
        reply = await requests.request(subject, body)
        status = status_of(reply.headers)
        if status == 404:
            return None
        if status:
            raise Lost(reply.headers[9:].decode(errors="replace").strip())
        return _message(reply.headers, reply.data)

    return await requests.patiently(once, subject)


async def read_all(
    requests: Requests, stream: str, subject: str, *, after: int = 0, limit: int | None = None
) -> list[StoredMessage]:
    """The messages of a subject (wildcards allowed) above ``after``, in order, at most ``limit`` of them."""
    found = await _read_on(requests, stream, subject, after, limit)
    deadline = asyncio.get_running_loop().time() + requests.patience_seconds
    while requests.replicated and (limit is None or len(found) < limit):
        last = await read_from_leader(requests, stream, {"last_by_subj": subject})
        reached = found[-1].sequence if found else after
        if last is None or last.sequence <= reached:
            break
        if asyncio.get_running_loop().time() >= deadline:
            message = f"the replicas of {stream} stay behind its leader"
            raise Transient(message)
        await asyncio.sleep(BEHIND_SECONDS)
        found += await _read_on(requests, stream, subject, reached, None if limit is None else limit - len(found))
    return found


async def _read_on(requests: Requests, stream: str, subject: str, after: int, limit: int | None) -> list[StoredMessage]:
    """What the replica that answers has."""
    found: list[StoredMessage] = []
    while True:
        batch = BATCH if limit is None else min(BATCH, limit - len(found))
        start = (found[-1].sequence if found else after) + 1
        attempt = functools.partial(_read_batch, requests, stream, subject, start, batch)
        page, more = await requests.patiently(attempt, f"reading {subject}")
        found += page
        if not more or not page or (limit is not None and len(found) >= limit):
            return found


async def _read_batch(
    requests: Requests, stream: str, subject: str, start: int, batch: int
) -> tuple[list[StoredMessage], bool]:
    page: list[StoredMessage] = []
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def receive(headers: bytes, data: bytes) -> None:
        status = status_of(headers)
        if not status:
            page.append(_message(headers, data))
        elif done.done():
            return
        elif status == 204:
            done.set_result(header_value(headers, b"Nats-Num-Pending") not in {"", "0"})
        elif status == 404:
            done.set_result(False)
        else:
            done.set_exception(Lost(headers[9:].decode(errors="replace").strip()))

    body = msgspec.json.encode({"seq": start, "next_by_subj": subject, "batch": batch})
    key = requests.collect(receive, done)
    try:
        if not requests.send(f"$JS.API.DIRECT.GET.{stream}", body, reply=key):
            message = "the connection is closed"
            raise Lost(message)
        async with asyncio.timeout(SILENCE_SECONDS):
            return page, await done
    except TimeoutError as error:
        message = f"no answer in time while reading {subject}"
        raise Lost(message) from error
    finally:
        requests.dismiss(key)


async def read_from_leader(requests: Requests, stream: str, query: dict[str, Any]) -> StoredMessage | None:
    """A message by ``{"last_by_subj": …}``, ``{"seq": …}`` or ``{"seq": …, "next_by_subj": …}``."""
    try:
        message = (await requests.api(f"STREAM.MSG.GET.{stream}", query))["message"]
    except Refused as error:
        if error.code == NO_MESSAGE:
            return None
        raise
    return StoredMessage(
        sequence=message["seq"],
        time=message["time"],
        subject=message["subject"],
        headers=base64.b64decode(message.get("hdrs", "")),
        data=base64.b64decode(message.get("data", "")),
    )
