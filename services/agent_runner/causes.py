"""What a provider's errors mean: its own typed error decides where there is one, the status only where there is none.

``classify`` finds such an error at the end of an agent program's log. Programs that speak JSON say it in the line
that ends them (Claude Code's ``result``, Codex's ``turn.failed`` and ``error``); of others it is looked for in the
forms in which the SDKs print it. Words alone, as "timeout" or "quota" in what a program prints, mean nothing.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

# Causes for which the same request may succeed later; every other one is final.
TRANSIENT = frozenset({"rate-limited", "overloaded", "server-error", "network", "timeout"})

# Causes that a program's log may tell of; others are the program's own affair.
_OF_PROGRAMS = TRANSIENT | {"bad-credentials", "spend-limit"}

LOG_END_CHARACTERS = 16_384
DETAIL_CHARACTERS = 2_000

_CAUSES_BY_STATUS = {
    401: "bad-credentials",
    402: "spend-limit",
    403: "bad-credentials",
    404: "model-not-found",
    408: "timeout",
    409: "server-error",
    413: "context-too-long",
    425: "server-error",
    429: "rate-limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

# https://docs.anthropic.com/en/api/errors
ANTHROPIC = {
    "enforced_spend_limit_reached": "spend-limit",
    "billing_error": "spend-limit",
    "rate_limit_error": "rate-limited",
    "overloaded_error": "overloaded",
    "api_error": "server-error",
    "timeout_error": "timeout",
    "authentication_error": "bad-credentials",
    "permission_error": "bad-credentials",
    "not_found_error": "model-not-found",
    "request_too_large": "context-too-long",
}

# https://platform.openai.com/docs/guides/error-codes, and servers that speak the same.
OPENAI = {
    "insufficient_quota": "spend-limit",
    "credit_balance_exhausted": "spend-limit",
    "billing_hard_limit_reached": "spend-limit",
    "billing_not_active": "spend-limit",
    "organization_usage_limit_exceeded": "spend-limit",
    "organization_spend_limit_exceeded": "spend-limit",
    "project_spend_limit_exceeded": "spend-limit",
    "invalid_api_key": "bad-credentials",
    "authentication_error": "bad-credentials",
    "model_not_found": "model-not-found",
    "context_length_exceeded": "context-too-long",
    "exceed_context_size_error": "context-too-long",
    "rate_limit_exceeded": "rate-limited",
    "rate_limit_error": "rate-limited",
    "slow_down": "overloaded",
    "server_is_overloaded": "overloaded",
    "server_error": "server-error",
}

_TYPED = {**OPENAI, **ANTHROPIC}

# How SDKs and programs print a provider's error: "API Error: 529 {…}", "Error code: 429 - {…}", "… last status: 429 …".
_PRINTED = re.compile(r"\b(?:API Error:?|Error code:|last status:) \(?(\d{3})\b(.*)", re.IGNORECASE)
_TYPE = re.compile(r"""["'](?:type|code|error_code)["']: ?["'](\w+)["']""")


class ProviderFault(msgspec.Struct, frozen=True):
    """An error of a provider, as a program told of it."""

    cause: str
    detail: str

    @property
    def is_transient(self) -> bool:
        return self.cause in TRANSIENT


def cause_of_status(status: int) -> str:
    """The cause that a status means where the body names none."""
    return _CAUSES_BY_STATUS.get(status) or ("server-error" if status >= 500 else "request-invalid")


def classify(log: str) -> ProviderFault | None:
    """The provider's error that a program, which ended with a failure, ended by; None where it was something else."""
    lines = [line.strip() for line in log[-LOG_END_CHARACTERS:].splitlines() if line.strip()]
    for line in reversed(lines):
        said = _message(line)
        if said is not None and said.get("type") in ("result", "turn.failed", "error"):
            return _typed(said)
    for line in reversed(lines):
        found = _printed(line)
        if found is not None:
            return found
    return None


def _message(line: str) -> dict[str, Any] | None:
    """The JSON object that the line is."""
    if not line.startswith("{"):
        return None
    try:
        found: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found


def _typed(said: dict[str, Any]) -> ProviderFault | None:
    """What the last word of a program that speaks JSON tells of its provider."""
    if said["type"] == "result" and not said.get("is_error"):
        return None
    error = said.get("error")
    inner: dict[str, Any] = error if isinstance(error, dict) else {}
    detail = next((str(text) for text in (inner.get("message"), said.get("message"), said.get("result")) if text), "")
    for name in (inner.get("code"), inner.get("type")):
        if name in _TYPED:
            return _of_program(_TYPED[name], detail)
    status = said.get("api_error_status")
    if isinstance(status, int):
        # The text may tell a spend limit from a rate limit, which have the same status.
        printed = _printed(detail)
        return printed if printed is not None else _of_program(cause_of_status(status), detail)
    return _printed(detail)


def _printed(line: str) -> ProviderFault | None:
    found = _PRINTED.search(line)
    if found is None:
        return None
    named = [_TYPED[name] for name in _TYPE.findall(found[2]) if name in _TYPED]
    # The finest name stands last, within the details of the error.
    return _of_program(named[-1] if named else cause_of_status(int(found[1])), line)


def _of_program(cause: str, detail: str) -> ProviderFault | None:
    return ProviderFault(cause, detail[:DETAIL_CHARACTERS]) if cause in _OF_PROGRAMS else None
