"""Responses: JSON by msgspec, and every error as a problem (RFC 9457, ``application/problem+json``).

A problem has ``type`` (``urn:cairn:problem:<slug>``), ``title`` (the same for every problem of a type), ``status``,
``detail`` (what happened here and what to do) and ``slug``; an invalid body also has ``errors``, each with a JSON
pointer to what is wrong. No traceback ever leaves the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from events.errors import CairnError, CommandRejected, Permanent, Transient

PROBLEM_TYPE = "urn:cairn:problem:"
_UNSEEN_SLUGS = {
    400: "malformed",
    404: "no-such-route",
    405: "method-not-allowed",
    413: "body-too-large",
    415: "unsupported-media-type",
}


def _plain(value: Any) -> Any:
    """What msgspec does not know: persistent maps and the records of a database are mappings."""
    if isinstance(value, Mapping):
        return dict(value)
    message = f"{type(value).__name__} has no JSON form"
    raise NotImplementedError(message)


encode = msgspec.json.Encoder(enc_hook=_plain).encode


class Json(Response):
    """Any msgspec structs, records and plain values as ``application/json``."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)


class Problem(CairnError):
    """An error as the client gets it. ``detail`` says what happened and what to do."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.headers = dict(headers or {})
        self.errors = errors

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": PROBLEM_TYPE + self.slug,
            "title": self.slug.replace("-", " ").replace("_", " ").capitalize(),
            "status": self.status,
            "detail": str(self),
            "slug": self.slug,
        }
        if self.errors:
            found["errors"] = self.errors
        return found

    def response(self) -> Response:
        return Response(encode(self.body()), self.status, self.headers, media_type="application/problem+json")


def unavailable(detail: str, slug: str = "unavailable", *, retry_after_seconds: float = 1.0) -> Problem:
    """503 with a time after which trying again makes sense."""
    return Problem(503, slug, detail, headers={"Retry-After": str(max(1, round(retry_after_seconds)))})


def as_problem(error: Exception) -> Problem:
    """What the client is told about an exception that a route let through."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CommandRejected):
        return Problem(error.status, error.slug, str(error))
    if isinstance(error, Transient):
        detail = f"{_as_sentence(str(error))} Nothing is lost; try again in a moment."
        return unavailable(detail, retry_after_seconds=error.delay_seconds)
    if isinstance(error, Permanent):
        return unavailable(_as_sentence(str(error)), error.slug, retry_after_seconds=10)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        slug = _UNSEEN_SLUGS.get(error.status_code, "refused")
        return Problem(error.status_code, slug, _detail_of(error), headers=error.headers)
    return Problem(500, "internal-error", "Something went wrong in the gateway; its log says what. Try again.")


def _as_sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _detail_of(error: HTTPException) -> str:
    if error.status_code == 404:
        return "There is nothing at this address; /openapi.json lists every address there is."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return f"This address knows {allowed or 'other methods'} only."
    return str(error.detail)


def _invalid(error: RequestValidationError) -> Problem:
    errors = error.errors()
    first = errors[0]
    if first["type"] == "json_invalid":
        return _malformed(first, error.body)
    if first["loc"] == ("body",) and isinstance(error.body, bytes):
        return Problem(415, "unsupported-media-type", "Send the body as JSON with `Content-Type: application/json`.")
    found = [{"pointer": _pointer(item["loc"]), "detail": _sentence(item)} for item in errors]
    listed = "; ".join(f"{item['pointer']}: {item['detail']}" for item in found[:5])
    return Problem(422, "invalid", f"The request is not valid. {listed}", errors=found)


def _malformed(error: dict[str, Any], body: Any) -> Problem:
    position = error["loc"][-1]
    text = body if isinstance(body, str) else ""
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    why = error["ctx"]["error"]
    return Problem(400, "malformed-json", f"The body is no valid JSON: {why} at line {line}, column {column}.")


def _pointer(location: tuple[int | str, ...]) -> str:
    """A JSON pointer into the body, or the name of the parameter."""
    where, *rest = location
    if where == "body":
        return "#/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in rest)
    return f"{where} parameter {'.'.join(map(str, rest))}"


def _sentence(error: dict[str, Any]) -> str:
    message: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "no such field; see /openapi.json for those there are"
    return message[:1].lower() + message[1:]


async def answer_problem(_request: Request, error: Exception) -> Response:
    return as_problem(error).response()


def install(app: FastAPI) -> None:
    """Answer every foreseen exception with a problem; the edge does the same for the others."""
    for kind in (Problem, CommandRejected, Transient, Permanent, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_problem)
