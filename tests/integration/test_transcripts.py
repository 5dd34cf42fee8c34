"""Transcripts: what the scripted model plays, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.agents import ModelAgent
from events.conversation import Message, UserText
from services.agent_runner.adapters import open_model
from services.agent_runner.adapters.http import Http
from services.agent_runner.ports import Model, ModelRefused
from tests.model_examples import (
    request,
    resolve,
    results_of,
    turn_of,
)

pytestmark = pytest.mark.integration


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    http = Http(read_timeout_seconds=5.0)
    yield http
    await http.close()


def scripted(path: Path, http: Http) -> Model:
    return open_model(ModelAgent(provider="scripted", transcript=str(path)), resolve, http)


async def test_a_transcript_may_differ_by_stage_and_attempt(tmp_path: Path, http: Http) -> None:
    """The first attempt fails its gate, the second mends it; what has no turns of its own gets the general ones."""
    path = tmp_path / "transcript.toml"
    path.write_text(
        """
        turns = [{text = "general"}]
        [attempts]
        1 = [{text = "first"}]
        [stages.review]
        turns = [{text = "review"}]
        """
    )
    model = scripted(path, http)

    async def text(stage: str, attempt: int) -> str:
        return (await model.respond(request(stage=stage, attempt=attempt))).text

    assert await text("development", 1) == "first"
    assert await text("development", 2) == "general"
    assert await text("review", 1) == "review"


async def test_turns_repeat_and_arguments_may_be_broken(tmp_path: Path, http: Http) -> None:
    """A repeated turn counts as many; arguments given as text are handed on as they are."""
    path = tmp_path / "transcript.json"
    path.write_text(
        '{"turns": [{"calls": [{"tool": "shell", "arguments": "{ broken"}], "repeat": 3}, {"text": "end"}]}'
    )
    model = scripted(path, http)
    talk: tuple[Message, ...] = (UserText("go"),)

    for number in range(3):
        answer = await model.respond(request(*talk))
        assert [call.arguments for call in answer.calls] == ["{ broken"]
        talk += (turn_of((f"c{number}", "{}")), results_of((f"c{number}", "")))

    assert (await model.respond(request(*talk))).text == "end"


async def test_a_transcript_can_take_its_time(tmp_path: Path, http: Http) -> None:
    """``delay_seconds`` passes before the answer."""
    path = tmp_path / "transcript.json"
    path.write_text('{"turns": [{"text": "slow", "delay_seconds": 0.1}]}')
    begin = asyncio.get_running_loop().time()

    await scripted(path, http).respond(request())

    assert asyncio.get_running_loop().time() - begin >= 0.09


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.json", None, "cannot be read: No such file"),
        ("broken.json", "{", "not well formed"),
        ("broken.toml", "turns = ", "not well formed"),
        ("typo.json", '{"truns": []}', "unknown field `truns`"),
        ("typo.json", '{"turns": [{"calls": [{"name": "shell"}]}]}', "turns"),
        ("never.json", '{"turns": [{"repeat": 0}]}', "repeat below 1"),
    ],
)
def test_a_transcript_that_cannot_be_played(
    name: str, text: str | None, words: str, tmp_path: Path, http: Http
) -> None:
    """A file that is missing or malformed is refused with its path and what is wrong."""
    path = tmp_path / name
    if text is not None:
        path.write_text(text)

    with pytest.raises(ModelRefused, match=words) as caught:
        scripted(path, http)

    assert str(path) in str(caught.value)
