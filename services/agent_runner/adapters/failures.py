"""From a provider's refusal to the error that it stands for.

The provider's own typed error decides where there is one; the status decides only where the body names none. Text
is looked at only for refusals that the provider itself tells apart by nothing else.
"""

from __future__ import annotations

import msgspec

from services.agent_runner.adapters.http import Reply
from services.agent_runner.causes import TRANSIENT
from services.agent_runner.ports import ModelRefused, ModelUnavailable

DETAIL_CHARACTERS = 2_000


class Failure(msgspec.Struct, frozen=True):
    """A provider's error as its protocol words it; empty where the body says nothing that can be understood."""

    type: str
    code: str
    message: str


_ADVICE = {
    "bad-credentials": "Check the agent's key, and that it may use this model.",
    "spend-limit": "Raise the limit or add credit with the provider, then retry the task.",
    "model-not-found": "Check the agent's model and base_url.",
    "context-too-long": "The conversation no longer fits the model: give the task to a larger one or make it smaller.",
}


def error_of(url: str, reply: Reply, failure: Failure, cause: str, key: str) -> ModelUnavailable | ModelRefused:
    """The error that a reply stands for, its message without ``key``: some providers repeat it."""
    said = ": ".join(filter(None, [failure.code or failure.type, failure.message])) or _text(reply.body)
    said = said.replace(key, "[key]") if key else said
    message = f"{url} answered {reply.status} {said[:DETAIL_CHARACTERS]}".rstrip()
    if cause in TRANSIENT:
        return ModelUnavailable(message, cause=cause, retry_after_seconds=reply.retry_after_seconds())
    advice = _ADVICE.get(cause, "")
    return ModelRefused(f"{message} {advice}".rstrip(), slug=cause)


def _text(body: bytes) -> str:
    return " ".join(body[:DETAIL_CHARACTERS].decode(errors="replace").split())
