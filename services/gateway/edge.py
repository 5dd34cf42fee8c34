"""The outermost layer: the key, the size of the body, and the last net under every request.

Plain ASGI, so that a stream passes through untouched. Everything under ``/api/`` needs a key, checked before a byte
of the body is read. A body over the limit is refused by its Content-Length, or, sent in chunks, as soon as it grows
over it; a bundle that is imported goes to disk, and has a limit of its own. A stream ends when its key is revoked. An
exception that nobody foresaw is logged and answered with a problem that tells nothing of it.
"""

from __future__ import annotations

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.api_keys import ApiKeys, KeysUnreadable
from services.gateway.answers import Problem, as_problem, unavailable

PROTECTED = "/api/"
IMPORTS = "/api/v1/imports"
MAX_BUNDLE_BYTES = 4 * 1024**3

_RAISE = "Send less, or raise gateway.max_body_bytes in the settings"

log = structlog.get_logger()


class KeyRevoked(Exception):
    """The key of a stream that is being sent is not known any more."""


class Edge:
    def __init__(self, app: ASGIApp, *, keys: ApiKeys, max_body_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        headers = Headers(scope=scope)
        protected = scope["path"].startswith(PROTECTED)

        async def watched_send(message: Message) -> None:
            nonlocal started
            if protected and started and message.get("more_body") and not self._keys.verify(_key(headers)):
                raise KeyRevoked
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            if protected:
                scope.setdefault("state", {})["actor"] = self._actor(headers)
            limit_bytes = MAX_BUNDLE_BYTES if scope["path"] == IMPORTS else self._max_body_bytes
            self._check_length(headers, limit_bytes)
            await self._app(scope, self._limited(receive, limit_bytes), watched_send)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        except KeyRevoked:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:  # The outermost edge: a bug of ours must not show a caller its traceback.
            log.error("request failed", method=scope["method"], path=scope["path"], exc_info=error)
            if not started:
                await as_problem(error).response()(scope, receive, send)

    def _actor(self, headers: Headers) -> str:
        """The name of the key that was sent, which is who acts."""
        key = _key(headers)
        try:
            name = self._keys.verify(key) if key else None
        except KeysUnreadable as error:
            log.error("no key can be checked", error=error)
            detail = "The gateway cannot read its file of keys; its log says why."
            raise unavailable(detail, "keys-unreadable") from error
        if name is None:
            what = "This API key is not known here." if key else "An API key is needed."
            detail = (
                f"{what} Send it as `Authorization: Bearer KEY`. The key of a stack on this host is in the file `key` "
                "of its home folder (.cairn/key beside cairn.toml, where nothing else was set)."
            )
            raise Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="cairn"'})
        return name

    def _check_length(self, headers: Headers, limit_bytes: int) -> None:
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > limit_bytes:
            raise self._too_large(limit_bytes)

    def _too_large(self, limit_bytes: int) -> Problem:
        advice = "Send less" if limit_bytes == MAX_BUNDLE_BYTES else _RAISE
        detail = f"The body is larger than {limit_bytes} bytes. {advice}."
        return Problem(413, "body-too-large", detail, headers={"Connection": "close"})

    def _limited(self, receive: Receive, limit_bytes: int) -> Receive:
        received_bytes = 0

        async def limited() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > limit_bytes:
                # FastAPI lets only this exception through while it reads a body.
                raise HTTPException(413, str(self._too_large(limit_bytes)))
            return message

        return limited


def _key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
