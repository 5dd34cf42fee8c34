"""Requests, conversations and agents by which models are tried."""

from __future__ import annotations

from typing import Any

from events.agents import ModelAgent
from events.content import Content, Inline, Stored
from events.conversation import AssistantTurn, CallMade, CallResult, Message, ToolResults, UserText
from events.errors import Invalid
from events.tools import AGENT_TOOLS
from services.agent_runner.ports import ModelRequest
from tests.model_server import KEY, MODEL, Call, Turn

OVER_HTTP = ("anthropic", "openai")
TURNS = (
    Turn(text="I look.", calls=(Call("shell", {"command": "ls"}), Call("shell", {"command": "pwd"}))),
    Turn(text="Done."),
)
STORED = Stored(digest="ab" * 32, size_bytes=5)


async def read(content: Content) -> str:
    return content.text if isinstance(content, Inline) else "from the store"


def request(*messages: Message, **fields: Any) -> ModelRequest:
    talk = messages or (UserText("Mend the bug."),)
    turn = sum(isinstance(message, AssistantTurn) for message in talk)
    return ModelRequest(system="You are an engineer.", messages=talk, tools=AGENT_TOOLS, read=read, turn=turn, **fields)


def turn_of(*calls: tuple[str, str], text: str = "", tool: str = "shell") -> AssistantTurn:
    made = tuple(CallMade(call_id=id, tool=tool, arguments=Inline(arguments)) for id, arguments in calls)
    return AssistantTurn(text=text, calls=made)


def results_of(*results: tuple[str, str]) -> ToolResults:
    return ToolResults(tuple(CallResult(call_id=id, content=Inline(text)) for id, text in results))


AFTER_FIRST_TURN = (
    UserText("Mend the bug."),
    turn_of(("run-1-c1", '{"command": "ls"}'), ("run-1-c2", '{"command": "pwd"}'), text="I look."),
    ToolResults(
        (
            CallResult(call_id="run-1-c1", content=STORED, note="[exit code 1]"),
            CallResult(call_id="run-1-c2", note="interrupted: stopped", is_error=True),
        )
    ),
)


def agent(provider: str, url: str, **fields: Any) -> ModelAgent:
    base_url = f"{url}/v1" if provider == "openai" else url
    return ModelAgent(**{"provider": provider, "model": MODEL, "base_url": base_url, "key": "env:KEY", **fields})


def resolve(reference: str) -> str:
    if reference != "env:KEY":
        message = f"there is no secret {reference}."
        raise Invalid(message)
    return KEY
