"""The model server that stands in for the real ones refuses what they refuse, or the contract would prove nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.agent_runner.adapters.http import Http
from tests.model_server import (
    KEY,
    MODEL,
    ModelServer,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "t", "input": {}}]},
        ],
        [{"role": "user", "content": "go"}, {"role": "user", "content": "go"}],
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": ""}]}],
        [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "t", "input": {}}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "hm"}, {"type": "tool_result", "tool_use_id": "a", "content": ""}],
            },
        ],
        [{"role": "user", "content": [{"type": "text", "text": " "}]}],
    ],
)
async def test_the_server_refuses_what_anthropic_refuses(
    messages: list[Any], http: Http, model_server: ModelServer
) -> None:
    """The double is strict, or the contract above would prove nothing."""
    body = {"model": MODEL, "max_tokens": 1, "messages": messages, "tools": []}
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}

    reply = await http.post(f"{model_server.url}/v1/messages", headers, json.dumps(body).encode())

    assert reply.status == 400
    assert model_server.requests[-1].problem


@pytest.mark.parametrize(
    "messages",
    [
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "t", "arguments": "{}"}}],
            }
        ],
        [{"role": "tool", "tool_call_id": "a", "content": ""}],
        [{"role": "assistant", "content": None}],
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a" * 41, "type": "function", "function": {"name": "t", "arguments": "{}"}}],
            }
        ],
    ],
)
async def test_the_server_refuses_what_openai_refuses(
    messages: list[Any], http: Http, model_server: ModelServer
) -> None:
    """The double is strict, or the contract above would prove nothing."""
    body = {"model": MODEL, "messages": messages}
    headers = {"authorization": f"Bearer {KEY}"}

    reply = await http.post(f"{model_server.url}/v1/chat/completions", headers, json.dumps(body).encode())

    assert reply.status == 400
    assert model_server.requests[-1].problem
