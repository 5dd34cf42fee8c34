"""One contract over every adapter of the model port, against a real HTTP server or a transcript file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from events.agents import ModelAgent
from events.conversation import AssistantTurn, Message, UserText
from events.tools import AGENT_TOOLS, check_arguments
from services.agent_runner.adapters import open_model
from services.agent_runner.adapters.http import Http
from services.agent_runner.ports import CallAsked, Model, ModelAnswer, ModelRefused, ModelRequest
from tests.model_examples import (
    AFTER_FIRST_TURN,
    OVER_HTTP,
    TURNS,
    agent,
    read,
    request,
    resolve,
    results_of,
    turn_of,
)
from tests.model_server import (
    Call,
    ModelServer,
    Turn,
)

pytestmark = pytest.mark.integration


OpenModel = Callable[[Sequence[Turn]], Model]


@pytest.fixture(params=[*OVER_HTTP, "scripted"])
def open_scripted(
    request: pytest.FixtureRequest, http: Http, model_server: ModelServer, tmp_path: Path
) -> Callable[[Sequence[Turn]], Model]:
    """Opens a model of each kind that plays the given turns."""

    def open_it(turns: Sequence[Turn]) -> Model:
        if request.param != "scripted":
            model_server.add("", turns)
            return open_model(agent(request.param, model_server.url), resolve, http)
        path = tmp_path / "transcript.json"
        path.write_text(json.dumps({"turns": [as_scripted(turn) for turn in turns]}))
        return open_model(ModelAgent(provider="scripted", transcript=str(path)), resolve, http)

    return open_it


def as_scripted(turn: Turn) -> dict[str, Any]:
    usage = {"input_tokens": turn.input_tokens, "output_tokens": turn.output_tokens}
    calls = [{"tool": call.tool, "arguments": call.arguments} for call in turn.calls]
    return {"text": turn.text, "calls": calls, "usage": usage, "stop_reason": turn.stop_reason}


def asked(answer: ModelAnswer) -> list[tuple[str, Any]]:
    return [(call.tool, json.loads(call.arguments)) for call in answer.calls]


# ---- the contract


async def test_an_answer_with_calls(open_scripted: OpenModel) -> None:
    """Text, calls in their order, usage with the cached part included, a stop reason in our words."""
    answer = await open_scripted(TURNS).respond(request())

    assert answer.text == "I look."
    assert asked(answer) == [("shell", {"command": "ls"}), ("shell", {"command": "pwd"})]
    assert len({call.provider_call_id for call in answer.calls}) == 2
    assert (answer.stop_reason, answer.input_tokens, answer.output_tokens) == ("tool_use", 100, 10)
    assert answer.model


@pytest.mark.parametrize(("provider", "cached"), [("anthropic", (40, 20)), ("openai", (40, 0))])
async def test_what_the_cache_saved(
    http: Http, model_server: ModelServer, provider: str, cached: tuple[int, int]
) -> None:
    """The part of the input that came from the provider's cache, and, of Anthropic, the part that went into it."""
    answer = await open_model(agent(provider, model_server.url), resolve, http).respond(request())

    assert (answer.cache_read_tokens, answer.cache_write_tokens) == cached
    assert answer.input_tokens == 100


async def test_the_conversation_goes_on_where_it_is(open_scripted: OpenModel) -> None:
    """The answer follows from the conversation alone: a new process gets the next turn, and the same one again."""
    model = open_scripted(TURNS)

    for _ in range(2):
        answer = await model.respond(request(*AFTER_FIRST_TURN))
        assert (answer.text, answer.calls, answer.stop_reason) == ("Done.", (), "end_turn")


async def test_an_answer_that_was_cut_off(open_scripted: OpenModel) -> None:
    """The stop reason says that the bound on output was reached."""
    answer = await open_scripted([Turn(text="I was abou", stop_reason="max_tokens")]).respond(request())

    assert answer.stop_reason == "max_tokens"


async def test_a_conversation_past_the_end_of_the_script_is_refused(open_scripted: OpenModel) -> None:
    """A model that cannot go on says so in words, and is not asked again."""
    with pytest.raises(ModelRefused) as caught:
        await open_scripted(TURNS[:1]).respond(request(*AFTER_FIRST_TURN))

    assert caught.value.slug == "request-invalid"
    assert "1 turns" in str(caught.value)


ODD: dict[str, tuple[Message, ...]] = {
    "an empty answer": (UserText("go"), AssistantTurn(), UserText("Call a tool.")),
    "blank text": (UserText(" "), turn_of(("c1", "{}"), text=" \n"), results_of(("c1", ""))),
    "arguments that are no JSON": (UserText("go"), turn_of(("c1", '{"a": ')), results_of(("c1", "no"))),
    "arguments that are no object": (UserText("go"), turn_of(("c1", "[1]")), results_of(("c1", "no"))),
    "arguments nested without end": (UserText("go"), turn_of(("c1", '{"a":' * 50_000)), results_of(("c1", "no"))),
    "a tool that cannot be": (
        UserText("go"),
        turn_of(("c1", "{}"), tool="functions.sh ell!" * 9),
        results_of(("c1", "")),
    ),
    "a tool without a name": (UserText("go"), turn_of(("c1", "{}"), tool=""), results_of(("c1", ""))),
    "a long id": (UserText("go"), turn_of(("run-" * 30 + "c1", "{}")), results_of(("run-" * 30 + "c1", "x"))),
    "an odd id": (UserText("go"), turn_of(("run.1/c1", "{}")), results_of(("run.1/c1", "x"))),
    "texts one after another": (
        UserText("go"),
        UserText("now"),
        turn_of(("c1", "{}")),
        results_of(("c1", "")),
        UserText("!"),
    ),
}


@pytest.mark.parametrize("name", ODD)
async def test_whatever_a_model_did_can_be_shown_again(open_scripted: OpenModel, name: str) -> None:
    """A conversation with odd turns is put so that the provider takes it: it never poisons the run."""
    answer = await open_scripted([Turn(text="x", calls=(Call("shell"),)), Turn(text="I see.")]).respond(
        ModelRequest(system="", messages=ODD[name], tools=AGENT_TOOLS, read=read, turn=1)
    )

    # Over HTTP an empty answer is not shown again, so the script is at its first turn there.
    assert answer.text in ({"x", "I see."} if name == "an empty answer" else {"I see."})


# ---- what is sent


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_calls_are_named_by_our_ids(provider: str, http: Http, model_server: ModelServer) -> None:
    """The ids in the conversation are ours, which are unique, in calls and results alike."""
    await open_model(agent(provider, model_server.url), resolve, http).respond(request(*AFTER_FIRST_TURN))

    assert {"run-1-c1", "run-1-c2"} == set(_strings(model_server.requests[-1].body)) & {"run-1-c1", "run-1-c2"}
    assert model_server.requests[-1].problem == ""


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


async def test_anthropic_gets_results_in_one_message_and_cache_breakpoints(
    http: Http, model_server: ModelServer
) -> None:
    """All results in one user message, first in it, contents read from the store, errors marked; breakpoints on the
    system prompt and on the last two user messages."""
    await open_model(agent("anthropic", model_server.url), resolve, http).respond(request(*AFTER_FIRST_TURN))

    body = model_server.requests[-1].body
    cache = {"type": "ephemeral"}
    assert [{"type": "text", "text": "You are an engineer.", "cache_control": cache}] == body["system"]
    assert {role: sum(message["role"] == role for message in body["messages"]) for role in ("user", "assistant")} == {
        "user": 2,
        "assistant": 1,
    }
    assert cache == body["messages"][0]["content"][0]["cache_control"]
    assert [
        {"type": "tool_result", "tool_use_id": "run-1-c1", "content": "from the store\n[exit code 1]"},
        {
            "type": "tool_result",
            "tool_use_id": "run-1-c2",
            "content": "interrupted: stopped",
            "is_error": True,
            "cache_control": cache,
        },
    ] == body["messages"][2]["content"]
    assert body["max_tokens"] == 8192


async def test_openai_gets_a_message_for_each_result(http: Http, model_server: ModelServer) -> None:
    """The system prompt leads, each result is a message of role tool, arguments are text."""
    await open_model(agent("openai", model_server.url), resolve, http).respond(request(*AFTER_FIRST_TURN))

    body = model_server.requests[-1].body
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool", "tool"]
    assert body["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"command": "ls"}'
    assert body["messages"][3]["content"] == "from the store\n[exit code 1]"
    assert body["max_tokens"] == 8192


async def test_broken_arguments_of_a_model_are_handed_on_as_they_came(http: Http, model_server: ModelServer) -> None:
    """What is no JSON is for the run to refuse; the adapter neither mends nor drops it."""
    model_server.add("", [Turn(calls=(Call("shell", '{"command": "ls'),))])

    answer = await open_model(agent("openai", model_server.url), resolve, http).respond(request())

    assert (CallAsked(tool="shell", arguments='{"command": "ls', provider_call_id="call_0_0"),) == answer.calls


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_an_id_that_comes_twice_is_reported_as_it_came(
    provider: str, http: Http, model_server: ModelServer
) -> None:
    """Some servers give every call the same id: that is why ours are used, and theirs only recorded."""
    model_server.add("", [Turn(calls=(Call("shell", id="same"), Call("shell", id="same")))])

    answer = await open_model(agent(provider, model_server.url), resolve, http).respond(request())

    assert [call.provider_call_id for call in answer.calls] == ["same", "same"]


async def test_a_call_that_anthropic_cut_off_has_no_valid_arguments(http: Http, model_server: ModelServer) -> None:
    """The provider closes the object it was cut off in; half of a file must not be written."""
    calls = (Call("shell", {"command": "ls"}), Call("shell", {"command": "rm -rf build/"}))
    model_server.add("", [Turn(calls=calls, stop_reason="max_tokens")])

    answer = await open_model(agent("anthropic", model_server.url), resolve, http).respond(request())

    assert [json.loads(call.arguments) for call in answer.calls[:1]] == [{"command": "ls"}]
    assert isinstance(check_arguments("shell", answer.calls[1].arguments), str)


async def test_concurrent_requests_share_a_pool(http: Http, model_server: ModelServer) -> None:
    """Many runs talk at the same time over one client."""
    model = open_model(agent("anthropic", model_server.url), resolve, http)

    answers = await asyncio.gather(*(model.respond(request()) for _ in range(20)))

    assert [answer.text for answer in answers] == ["I look."] * 20


# ---- descriptions of agents


@pytest.mark.parametrize(
    ("fields", "slug", "words"),
    [
        ({"provider": "gemini"}, "request-invalid", "anthropic, openai or scripted"),
        ({"provider": "openai", "key": "env:KEY"}, "model-not-found", "names no model"),
        ({"provider": "openai", "model": "m"}, "bad-credentials", 'add key = "env:NAME"'),
        ({"provider": "anthropic", "model": "m", "key": "env:GONE"}, "bad-credentials", "no secret env:GONE"),
        ({"provider": "scripted"}, "request-invalid", 'add transcript = "PATH"'),
    ],
)
def test_an_agent_that_cannot_be_used(fields: dict[str, Any], slug: str, words: str, http: Http) -> None:
    """A description with something missing is refused with what to add."""
    with pytest.raises(ModelRefused, match=words) as caught:
        open_model(ModelAgent(**fields), resolve, http)

    assert slug == caught.value.slug


@pytest.mark.parametrize("secret", ["", "two words", "naïve", "line\nbreak"])
def test_a_secret_that_is_no_key(secret: str, http: Http) -> None:
    """A key that no header can carry is told before anything is sent, without repeating it."""
    with pytest.raises(ModelRefused, match="env:KEY stands for is no key") as caught:
        open_model(agent("openai", "http://127.0.0.1:1"), lambda _: secret, http)

    assert not secret or secret not in str(caught.value)


async def test_a_server_of_ones_own_needs_no_key(http: Http) -> None:
    """Without a key no header is sent, where the base URL is not the provider's own."""
    with ModelServer([Turn(text="free")]) as server:
        model = open_model(agent("openai", server.url, key=""), resolve, http)
        with pytest.raises(ModelRefused):
            await model.respond(request())

        assert "authorization" not in server.requests[0].headers
