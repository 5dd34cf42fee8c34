"""The two protocols that the model server speaks: what each refuses, and how each words an answer and an error.

The rules are those by which the real APIs refuse a conversation: ids without a result, results without a call or
not first in their message, blank text, blocks and names that are not allowed, unknown fields.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model_server import Turn

Json = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass
class Problem(Exception):
    """A request that is refused."""

    status: int
    type: str
    message: str
    code: str | None = None

    def __str__(self) -> str:
        return self.message


def demand(holds: bool, message: str) -> None:
    if not holds:
        raise Problem(400, "invalid_request_error", message)


class Protocol:
    def check(self, headers: dict[str, str], body: Json, *, key: str, model: str) -> None:
        """Raises ``Problem`` for a request that the real API would not take."""
        raise NotImplementedError

    def error(self, problem: Problem) -> Json:
        raise NotImplementedError

    def answer(self, turn: Turn, number: int, model: str) -> Json:
        raise NotImplementedError

    def first_text(self, body: Json) -> str:
        """The first message from the user."""
        message = next(message for message in body["messages"] if message["role"] == "user")
        content = message["content"]
        return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)

    def answers(self, body: Json) -> int:
        """How many answers of the model the conversation holds."""
        return sum(message["role"] == "assistant" for message in body["messages"])


class Anthropic(Protocol):
    _FIELDS = frozenset(
        {"model", "max_tokens", "messages", "system", "tools", "tool_choice", "temperature", "metadata"}
    )

    def check(self, headers: dict[str, str], body: Json, *, key: str, model: str) -> None:
        if headers.get("x-api-key") != key:
            raise Problem(401, "authentication_error", "invalid x-api-key")
        demand(headers.get("anthropic-version") == "2023-06-01", "anthropic-version: header is required")
        demand(headers.get("content-type") == "application/json", "content-type has to be application/json")
        demand(not body.keys() - self._FIELDS, f"{body.keys() - self._FIELDS}: Extra inputs are not permitted")
        demand(isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 0, "max_tokens: Field required")
        if body.get("model") != model:
            raise Problem(404, "not_found_error", f"model: {body.get('model')}")
        self._check_tools(body)
        self._check_messages(body)
        demand(
            json.dumps(body).count('"cache_control"') <= 4, "A maximum of 4 blocks with cache_control may be provided"
        )

    def _check_tools(self, body: Json) -> None:
        tools = body.get("tools", [])
        for tool in tools:
            demand(tool.keys() <= {"name", "description", "input_schema", "cache_control"}, "tools: extra inputs")
            demand(bool(_NAME.match(tool["name"])), f"tools.name: {tool['name']!r} does not match the pattern")
            demand(tool["input_schema"].get("type") == "object", "tools.input_schema.type: Field required")
        demand(len({tool["name"] for tool in tools}) == len(tools), "tools: Tool names must be unique.")
        for block in body.get("system", []) if isinstance(body.get("system"), list) else []:
            demand(block["type"] == "text" and bool(block["text"].strip()), "system: text blocks must be non-empty")

    def _check_messages(self, body: Json) -> None:
        messages = body.get("messages") or []
        demand(bool(messages), "messages: at least one message is required")
        demand(messages[0]["role"] == "user", "messages: first message must use the user role")
        demand(messages[-1]["role"] == "user", "messages: this model does not support assistant message prefill")
        seen: set[str] = set()
        asked: list[str] = []
        for place, message in enumerate(messages):
            demand(message["role"] == ("user", "assistant")[place % 2], f"messages.{place}: roles must alternate")
            blocks = message["content"]
            if isinstance(blocks, str):
                blocks = [{"type": "text", "text": blocks}]
            demand(bool(blocks), f"messages.{place}: all messages must have non-empty content")
            if message["role"] == "user":
                self._check_results(place, blocks, asked)
                asked = []
            else:
                asked = self._check_calls(place, blocks, seen)
        demand(not asked, f"`tool_use` ids were found without `tool_result` blocks immediately after: {asked}")
        demand(not seen or bool(body.get("tools")), "Requests which include `tool_use` blocks must define tools")

    def _check_results(self, place: int, blocks: list[Json], asked: list[str]) -> None:
        kinds = [block["type"] for block in blocks]
        demand(set(kinds) <= {"text", "tool_result"}, f"messages.{place}: blocks not allowed for user")
        demand(kinds == sorted(kinds, reverse=True), f"messages.{place}: tool_result blocks must come first")
        given = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        missing, surplus = set(asked) - set(given), set(given) - set(asked)
        demand(not missing, f"`tool_use` ids were found without `tool_result` blocks immediately after: {missing}")
        demand(not surplus, f"messages.{place}: unexpected `tool_use_id` found in `tool_result` blocks: {surplus}")
        demand(len(given) == len(set(given)), f"messages.{place}: each tool_use must have a single result")
        for block in blocks:
            if block["type"] == "tool_result":
                demand(
                    block.keys() <= {"type", "tool_use_id", "content", "is_error", "cache_control"}
                    and isinstance(block["content"], str),
                    f"messages.{place}: Extra inputs are not permitted",
                )
            else:
                self._check_text(place, block)

    def _check_calls(self, place: int, blocks: list[Json], seen: set[str]) -> list[str]:
        asked = []
        for block in blocks:
            if block["type"] == "text":
                self._check_text(place, block)
                continue
            demand(block["type"] == "tool_use", f"messages.{place}: {block['type']} is not allowed for assistant")
            demand(bool(_NAME.match(block["id"])), f"messages.{place}.tool_use.id: does not match the pattern")
            demand(bool(_NAME.match(block["name"])), f"messages.{place}.tool_use.name: does not match the pattern")
            demand(isinstance(block["input"], dict), f"messages.{place}.tool_use.input: should be a valid dictionary")
            demand(block["id"] not in seen, f"messages.{place}: `tool_use` ids must be unique")
            seen.add(block["id"])
            asked.append(block["id"])
        return asked

    def _check_text(self, place: int, block: Json) -> None:
        demand(block.keys() <= {"type", "text", "cache_control"}, f"messages.{place}: Extra inputs are not permitted")
        demand(bool(block["text"].strip()), f"messages.{place}: text content blocks must contain non-whitespace text")

    def error(self, problem: Problem) -> Json:
        return {"type": "error", "error": {"type": problem.type, "message": problem.message}, "request_id": "req_test"}

    def answer(self, turn: Turn, number: int, model: str) -> Json:
        content: list[Json] = [{"type": "text", "text": turn.text}] if turn.text else []
        for place, call in enumerate(turn.calls):
            arguments = call.arguments if isinstance(call.arguments, dict) else {}
            content.append(
                {"type": "tool_use", "id": call.id or f"toolu_{number}_{place}", "name": call.tool, "input": arguments}
            )
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": turn.stop_reason or ("tool_use" if turn.calls else "end_turn"),
            "stop_sequence": None,
            "usage": {
                "input_tokens": turn.input_tokens - turn.cached_tokens - turn.cache_write_tokens,
                "cache_creation_input_tokens": turn.cache_write_tokens,
                "cache_read_input_tokens": turn.cached_tokens,
                "output_tokens": turn.output_tokens,
            },
        }


class OpenAI(Protocol):
    _FIELDS = frozenset(
        {"model", "messages", "tools", "tool_choice", "max_tokens", "max_completion_tokens", "temperature"}
    )

    def check(self, headers: dict[str, str], body: Json, *, key: str, model: str) -> None:
        if headers.get("authorization") != f"Bearer {key}":
            given = headers.get("authorization", "").removeprefix("Bearer ")
            message = f"Incorrect API key provided: {given}."
            raise Problem(401, "invalid_request_error", message, "invalid_api_key")
        demand(not body.keys() - self._FIELDS, f"Unrecognized request arguments: {body.keys() - self._FIELDS}")
        if body.get("model") != model:
            message = f"The model `{body.get('model')}` does not exist or you do not have access to it."
            raise Problem(404, "invalid_request_error", message, "model_not_found")
        for tool in body.get("tools", []):
            demand(tool.keys() == {"type", "function"} and tool["type"] == "function", "tools: not a function")
            demand(bool(_NAME.match(tool["function"]["name"])), "tools.function.name does not match the pattern")
            demand(tool["function"]["parameters"].get("type") == "object", "tools.function.parameters: not an object")
        demand(body.get("tools") != [], "[] is too short - 'tools'")
        self._check_messages(body.get("messages") or [])

    def _check_messages(self, messages: list[Json]) -> None:
        demand(bool(messages), "[] is too short - 'messages'")
        seen: set[str] = set()
        waiting: set[str] = set()
        for place, message in enumerate(messages):
            role = message["role"]
            demand(role in {"system", "user", "assistant", "tool"}, f"messages.{place}: {role!r} is no role")
            if role == "tool":
                id = message["tool_call_id"]
                demand(id in waiting, f"messages.{place}: role 'tool' must follow a message with 'tool_calls' ({id})")
                demand(isinstance(message["content"], str), f"messages.{place}.content: not a string")
                waiting.remove(id)
                continue
            demand(not waiting, f"tool_call_ids did not have response messages: {waiting}")
            if role == "assistant" and "tool_calls" in message:
                waiting = self._check_calls(place, message, seen)
            else:
                demand(isinstance(message["content"], str), f"messages.{place}.content: expected a string, got null")
        demand(not waiting, f"tool_call_ids did not have response messages: {waiting}")

    def _check_calls(self, place: int, message: Json, seen: set[str]) -> set[str]:
        demand(bool(message["tool_calls"]), f"[] is too short - 'messages.{place}.tool_calls'")
        for call in message["tool_calls"]:
            function = call["function"]
            demand(len(call["id"]) <= 40, f"Invalid 'messages[{place}].tool_calls[0].id': string too long.")
            demand(call["id"] not in seen, f"messages.{place}: duplicate tool call id {call['id']}")
            demand(call["type"] == "function", f"messages.{place}: tool_calls.type")
            demand(bool(_NAME.match(function["name"])), f"messages.{place}: name does not match the pattern")
            demand(isinstance(function["arguments"], str), f"messages.{place}: arguments is not of type 'string'")
            try:
                parsed = json.loads(function["arguments"])
            except ValueError:
                parsed = None
            demand(isinstance(parsed, dict), f"messages.{place}: arguments must be valid JSON")
            seen.add(call["id"])
        return {call["id"] for call in message["tool_calls"]}

    def error(self, problem: Problem) -> Json:
        return {
            "error": {"message": problem.message, "type": problem.type, "param": None, "code": problem.code},
        }

    def answer(self, turn: Turn, number: int, model: str) -> Json:
        message: Json = {"role": "assistant", "content": turn.text or None, "refusal": None}
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": call.id or f"call_{number}_{place}",
                    "type": "function",
                    "function": {
                        "name": call.tool,
                        "arguments": call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments),
                    },
                }
                for place, call in enumerate(turn.calls)
            ]
        reasons = {"max_tokens": "length", "refusal": "content_filter"}
        reason = reasons.get(turn.stop_reason) or ("tool_calls" if turn.calls else "stop")
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {
                "prompt_tokens": turn.input_tokens,
                "completion_tokens": turn.output_tokens,
                "total_tokens": turn.input_tokens + turn.output_tokens,
                "prompt_tokens_details": {"cached_tokens": turn.cached_tokens},
            },
        }


PROTOCOLS: dict[str, Protocol] = {"/v1/messages": Anthropic(), "/v1/chat/completions": OpenAI()}
