"""The gateway over HTTP: where it is, which key it wants, and its errors as failures that a person can act on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from infra.api_keys import KEY_FILE
from infra.embedded import stack_file
from services.command_line import console
from services.command_line.failures import FAILED, INVALID, NOT_FOUND, UNREACHABLE, Failure

if TYPE_CHECKING:
    import httpx2

BASE = "/api/v1"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
# A host may first have to write out a workspace, or to pack a history.
LONG_ANSWER_SECONDS = 180.0

# The gateway sends a comment every 10 s on a quiet stream; a longer silence means a dead connection.
STREAM_SILENCE_SECONDS = 30.0

_EXIT_CODES = {401: UNREACHABLE, 403: UNREACHABLE, 404: NOT_FOUND, 503: UNREACHABLE}
_INVALID = {400, 413, 415, 422}

# What passes by itself: a stream tries again.
_PASSING = {502, 503, 504}


class ServerEvent(msgspec.Struct, frozen=True):
    """One server-sent event. ``data`` is its JSON decoded; ``id`` is where a new connection goes on.

    A frame that has an id and no data has the name ``position``.
    """

    id: str
    name: str
    data: Any


class Disconnected(Failure):
    """A stream broke off, or cannot be had at the moment; a new connection goes on where it ended."""


class Gateway:
    """A connection to one gateway. Every method raises ``Failure``."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._client: httpx2.Client | None = None

    def get(self, path: str, **parameters: Any) -> Any:
        """The decoded answer. Parameters that are None or empty are left out."""
        return self._ask("GET", path, params={k: v for k, v in parameters.items() if v not in (None, "")})

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._ask("POST", path, json=dict(body or {}))

    def items(self, path: str, **parameters: Any) -> list[Any]:
        """The rows of a list."""
        rows: list[Any] = self.get(path, **parameters)["items"]
        return rows

    def command(self, path: str, body: Mapping[str, Any], done: str, *, as_json: bool = False) -> Any:
        """Send a command and say what became of it: ``done``, or that it is not known yet."""
        answer = self.post(path, body)
        if as_json:
            console.show_json(answer)
        elif is_pending(answer):
            console.note(answer["detail"], style="yellow")
        elif done:
            console.say(done, style="green")
            if answer.get("detail"):
                console.note(answer["detail"], style="yellow")
        return answer

    def text(self, path: str) -> str:
        """The answer as it is, for what is no JSON."""
        return self._send("GET", path).text

    def raw(self, path: str, **parameters: Any) -> bytes:
        """The bytes of the answer. Parameters that are None or empty are left out."""
        given = {k: v for k, v in parameters.items() if v not in (None, "")}
        return self._send("GET", path, params=given, timeout=LONG_ANSWER_SECONDS).content

    def upload(self, path: str, chunks: Iterator[bytes], **parameters: Any) -> Any:
        """Send bytes, and answer with the decoded answer."""
        given = {k: v for k, v in parameters.items() if v not in (None, "")}
        headers = {"Content-Type": "application/octet-stream"}
        return self._ask("POST", path, params=given, content=chunks, headers=headers, timeout=LONG_ANSWER_SECONDS)

    def stream(self, path: str, last_id: str = "", **parameters: Any) -> Iterator[ServerEvent]:
        """Events until the server ends the stream. Raises ``Disconnected`` where the connection breaks, or is silent
        for ``STREAM_SILENCE_SECONDS``."""
        import httpx2

        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=STREAM_SILENCE_SECONDS)
        given = {k: v for k, v in parameters.items() if v not in (None, "")}
        try:
            with self._http().stream("GET", BASE + path, params=given, headers=headers, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    raise _failure(response, self.url)
                yield from parse_events(response.iter_lines())
        except httpx2.ReadTimeout as error:
            message = f"{self.url} has said nothing for {STREAM_SILENCE_SECONDS:g} s."
            raise Disconnected(message, exit_code=UNREACHABLE) from error
        except httpx2.TransportError as error:
            message = f"The connection to {self.url} broke off ({error})."
            raise Disconnected(message, exit_code=UNREACHABLE) from error

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._send(method, path, **arguments)
        try:
            return msgspec.json.decode(response.content) if response.content else None
        except msgspec.DecodeError as error:
            message = f"{self.url} answered something that is no JSON: is it a Cairn gateway?"
            raise Failure(message, exit_code=UNREACHABLE) from error

    def _send(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        import httpx2

        try:
            response = self._http().request(method, BASE + path, **arguments)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            message = f"No Cairn answers at {self.url} ({error})."
            raise Failure(message, hint="Is it running?", exit_code=UNREACHABLE) from error
        if response.status_code >= 300:
            raise _failure(response, self.url)
        return response

    def _http(self) -> httpx2.Client:
        import httpx2

        if self._client is None:
            self._client = httpx2.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {self._key}"},
                timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                # A gateway on this host is never reached through the proxy that the environment may name.
                trust_env=not _is_local(self.url),
                # Reading the certificates takes longer than most answers, and plain HTTP has no use for them.
                verify=self.url.startswith("https:"),
            )
        return self._client


def connect(url: str | None, key: str | None) -> Gateway:
    """The gateway that was named, by option or environment, else that of the nearest ``.cairn`` from here upwards."""
    url = url or os.environ.get("CAIRN_URL")
    key = key or os.environ.get("CAIRN_KEY")
    if url and not url.startswith(("http://", "https://")):
        message = f"{url!r} is no address of a Cairn."
        raise Failure(message, hint="Write it so: http://HOST:8420.", exit_code=INVALID)
    if url and key:
        return Gateway(url, key)
    home = nearest_home()
    running = stack_file.read(home) if home is not None else None
    if home is None or running is None:
        if url:
            message = f"There is no key for {url}."
            raise Failure(message, hint="Give one with --key or CAIRN_KEY.", exit_code=UNREACHABLE)
        raise nothing_here()
    return Gateway(url or running.url, key or _key_of(home))


def is_pending(answer: Any) -> bool:
    """Whether a command was taken whose outcome is not known yet."""
    return bool(answer["outcome"] == "pending")


def nearest_home() -> Path | None:
    return stack_file.find_home(Path.cwd())


def nothing_here() -> Failure:
    message = "No Cairn is running here: start one with `cairn up`."
    hint = "One that runs elsewhere is named by --url and --key, or by CAIRN_URL and CAIRN_KEY."
    return Failure(message, hint=hint, exit_code=UNREACHABLE)


def parse_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) whose data is JSON."""
    id, name, data, moved = "", "message", list[str](), False
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(id, name, msgspec.json.decode("\n".join(data)))
            elif moved:
                yield ServerEvent(id, "position", None)
            name, data, moved = "message", [], False
        elif field == "data":
            data.append(value)
        elif field == "id":
            id, moved = value, True
        elif field == "event":
            name = value


def _key_of(home: Path) -> str:
    try:
        return (home / KEY_FILE).read_text(encoding="utf-8").strip()
    except OSError as error:
        message = f"The key in {home / KEY_FILE} cannot be read ({error.strerror})."
        raise Failure(message, hint="Give one with --key or CAIRN_KEY.", exit_code=UNREACHABLE) from error


def _failure(response: httpx2.Response, url: str) -> Failure:
    status = response.status_code
    kind = Disconnected if status in _PASSING else Failure
    exit_code = INVALID if status in _INVALID else _EXIT_CODES.get(status, FAILED)
    try:
        problem = msgspec.json.decode(response.content, type=dict[str, Any])
        message = str(problem["detail"])
    except (msgspec.MsgspecError, KeyError):
        message = f"{url} answered {status}: is it a Cairn gateway?"
        return kind(message, exit_code=UNREACHABLE if status != 404 else NOT_FOUND)
    return kind(message, exit_code=exit_code)


def _is_local(url: str) -> bool:
    from urllib.parse import urlsplit

    return (urlsplit(url).hostname or "") in {"localhost", "127.0.0.1", "::1"}
