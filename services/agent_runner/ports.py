"""What the agent-runner needs from outside, in its own words: a model to talk to.

Adapters translate between this and a provider's protocol, and raise only the two errors below. They never try
again by themselves: how long to wait and how often is decided, and recorded, by the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from events.agents import Agent, ModelAgent
from events.content import Content
from events.conversation import Message
from events.errors import Permanent, Transient
from events.tools import ToolDefinition


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the next answer depends on. The last turn of ``messages`` has no open calls.

    ``read`` gives the text that a content stands for. ``turn`` counts the answers that the conversation holds
    already; it, ``stage`` and ``attempt`` are for models that play back a transcript.
    """

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolDefinition]
    read: Callable[[Content], Awaitable[str]]
    max_output_tokens: int = 8192
    turn: int = 0
    stage: str = ""
    attempt: int = 1


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent works with: its description, what the model is told of itself, the names of its tools."""

    agent: Agent
    system: str
    tools: tuple[str, ...]


class CallAsked(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the model asks for it. ``arguments`` should be the text of a JSON object, and may be anything."""

    tool: str
    arguments: str
    provider_call_id: str = ""


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``stop_reason`` is end_turn, tool_use, max_tokens, refusal or what else the provider says.

    After ``max_tokens`` the last call may be cut off: then its arguments are no valid JSON. ``input_tokens``
    includes those that were read from or written to the provider's cache, which the two below count.
    """

    text: str = ""
    calls: tuple[CallAsked, ...] = ()
    stop_reason: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


class Model(Protocol):
    async def respond(self, request: ModelRequest) -> ModelAnswer:
        """The model's next answer. Raises ``ModelUnavailable`` and ``ModelRefused``."""


class Models(Protocol):
    def open(self, agent: ModelAgent) -> Model:
        """The model that the agent names. Raises ``Permanent`` where it cannot be had."""

    async def close(self) -> None: ...


class ModelUnavailable(Transient):
    """The provider flinched; the same request may succeed later.

    ``cause`` is rate-limited, overloaded, server-error, network or timeout; ``retry_after_seconds`` is the least
    time to wait where the provider names one.
    """

    def __init__(self, message: str, *, cause: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, delay_seconds=retry_after_seconds or 1.0)
        self.cause = cause
        self.retry_after_seconds = retry_after_seconds


class ModelRefused(Permanent):
    """The provider will not serve this request however often it is sent.

    ``slug`` is bad-credentials, spend-limit, model-not-found, request-invalid or context-too-long.
    """
