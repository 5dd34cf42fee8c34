"""The Anthropic Messages API (https://docs.anthropic.com/en/api/messages), version 2023-06-01, without streaming.

The prefix of the conversation is cached by the provider: breakpoints stand on the system prompt (which covers the
tools, that come before it), on the last message, and on the user message before it, where the previous request had
its last one: the provider looks back only 20 blocks for an earlier breakpoint, and a turn may hold more.
"""

from __future__ import annotations

from typing import Any

import msgspec

from events.conversation import AssistantTurn, Message, ToolResults, UserText
from services.agent_runner.adapters.failures import Failure, error_of
from services.agent_runner.adapters.http import Http, Reply
from services.agent_runner.adapters.wire import wire_arguments, wire_id, wire_name
from services.agent_runner.causes import ANTHROPIC, cause_of_status
from services.agent_runner.ports import CallAsked, ModelAnswer, ModelRequest, ModelUnavailable

BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"

Json = dict[str, Any]

_CACHE = {"type": "ephemeral"}


class _Block(msgspec.Struct):
    """A block of an answer; of the types that exist only ``text`` and ``tool_use`` concern us."""

    type: str = ""
    text: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Answer(msgspec.Struct):
    content: list[_Block]
    usage: _Usage
    model: str = ""
    stop_reason: str | None = None


class _Error(msgspec.Struct):
    """``details`` is an object, whose ``error_code`` is finer than ``type`` where it is there."""

    type: str = ""
    message: str = ""
    code: Any = None
    details: Any = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_answer_decoder = msgspec.json.Decoder(_Answer)
_error_decoder = msgspec.json.Decoder(_ErrorBody)

# These come as invalid_request_error and differ in their message alone.
_CAUSES_BY_MESSAGE = {
    "You have reached your specified": "spend-limit",
    "Your credit balance is too low": "spend-limit",
    "prompt is too long": "context-too-long",
    "exceed context limit": "context-too-long",
}


class AnthropicModel:
    """``key`` may be empty where ``base_url`` leads to something that wants none."""

    def __init__(self, http: Http, *, model: str, key: str, base_url: str = "") -> None:
        self._http = http
        self._model = model
        self._key = key
        self._url = (base_url or BASE_URL).rstrip("/").removesuffix("/v1") + "/v1/messages"

    async def respond(self, request: ModelRequest) -> ModelAnswer:
        headers = {"anthropic-version": VERSION}
        if self._key:
            headers["x-api-key"] = self._key
        body = msgspec.json.encode(await self._body(request))
        reply = await self._http.post(self._url, headers, body)
        if reply.status != 200:
            failure = _failure(reply)
            raise error_of(self._url, reply, failure, _cause(reply, failure), self._key)
        try:
            return _answer(_answer_decoder.decode(reply.body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = f"{self._url} answered something that is no message ({error}): is it the Messages API?"
            raise ModelUnavailable(message, cause="server-error") from error

    async def _body(self, request: ModelRequest) -> Json:
        messages = await wire_messages(request)
        users = [message for message in messages if message["role"] == "user"]
        for message in users[-2:]:
            message["content"][-1]["cache_control"] = _CACHE
        tools: list[Json] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in request.tools
        ]
        body: Json = {"model": self._model, "max_tokens": request.max_output_tokens, "messages": messages}
        if request.system:
            body["system"] = [{"type": "text", "text": request.system, "cache_control": _CACHE}]
        elif tools:
            tools[-1]["cache_control"] = _CACHE
        if tools:
            body["tools"] = tools
        return body


async def wire_messages(request: ModelRequest) -> list[Json]:
    """The conversation in the provider's words: user and assistant in turn, results first in their message."""
    messages: list[Json] = []
    for message in request.messages:
        role = "assistant" if isinstance(message, AssistantTurn) else "user"
        blocks = await _blocks(message, request)
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    return messages


async def _blocks(message: Message, request: ModelRequest) -> list[Json]:
    if isinstance(message, ToolResults):
        return [
            {
                "type": "tool_result",
                "tool_use_id": wire_id(result.call_id),
                "content": result.shown(await request.read(result.content)),
                **({"is_error": True} if result.is_error else {}),
            }
            for result in message.results
        ]
    # A block of text must not be blank: an answer without words is not shown, a message without words says so.
    if isinstance(message, UserText):
        return [{"type": "text", "text": message.text if message.text.strip() else "(empty)"}]
    blocks: list[Json] = [{"type": "text", "text": message.text}] if message.text.strip() else []
    for call in message.calls:
        arguments = wire_arguments(await request.read(call.arguments))
        blocks.append(
            {
                "type": "tool_use",
                "id": wire_id(call.call_id),
                "name": wire_name(call.tool),
                "input": msgspec.Raw(arguments.encode()),
            }
        )
    return blocks


def _answer(answer: _Answer) -> ModelAnswer:
    usage = answer.usage
    cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    calls = [
        CallAsked(tool=block.name, arguments=bytes(block.input).decode(), provider_call_id=block.id)
        for block in answer.content
        if block.type == "tool_use"
    ]
    if calls and answer.stop_reason == "max_tokens" and answer.content[-1].type == "tool_use":
        # The provider closes the object that it was cut off in: it looks whole, and must not be executed. Without its
        # last brace it is what it is.
        calls[-1] = msgspec.structs.replace(calls[-1], arguments=calls[-1].arguments.rstrip()[:-1])
    return ModelAnswer(
        text="".join(block.text for block in answer.content if block.type == "text"),
        calls=tuple(calls),
        stop_reason=answer.stop_reason or "",
        model=answer.model,
        input_tokens=usage.input_tokens + cached,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_input_tokens or 0,
        cache_write_tokens=usage.cache_creation_input_tokens or 0,
    )


def _failure(reply: Reply) -> Failure:
    try:
        error = _error_decoder.decode(reply.body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Failure("", "", "")
    code = error.details.get("error_code") if isinstance(error.details, dict) else None
    return Failure(error.type, str(code or error.code or ""), error.message)


def _cause(reply: Reply, failure: Failure) -> str:
    typed = ANTHROPIC.get(failure.code) or ANTHROPIC.get(failure.type)
    if typed:
        return typed
    for part, cause in _CAUSES_BY_MESSAGE.items():
        if failure.type == "invalid_request_error" and part in failure.message:
            return cause
    return cause_of_status(reply.status)
