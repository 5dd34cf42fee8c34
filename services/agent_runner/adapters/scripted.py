"""A model that plays back a transcript: for demonstrations, tests and benchmarks, without network or cost.

A transcript is a JSON file, or a TOML file where its name ends in ``.toml``::

    {"turns": [
        {"text": "First I look.", "calls": [{"tool": "shell", "arguments": {"command": "ls"}}]},
        {"calls": [{"tool": "write_file", "arguments": "{ broken on purpose"}], "repeat": 3},
        {"calls": [{"tool": "submit", "arguments": {"summary": "done"}}], "delay_seconds": 0.2,
         "usage": {"input_tokens": 1200, "output_tokens": 80}}
    ]}

``attempts`` holds other turns for single attempts of a stage (``{"attempts": {"1": [...]}, "turns": [...]}``), and
``stages`` the same three for single stages. Which turn comes next depends only on how many the conversation holds
already, so that a resumed run goes on where it was.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.agent_runner.ports import CallAsked, ModelAnswer, ModelRefused, ModelRequest


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``arguments`` given as text are handed on as they are."""

    tool: str
    arguments: dict[str, Any] | str = msgspec.field(default_factory=dict)


class ScriptedUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_tokens: int = 0
    output_tokens: int = 0


class ScriptedTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``repeat`` plays the turn so many times in a row."""

    text: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    stop_reason: str = ""
    usage: ScriptedUsage = ScriptedUsage()
    delay_seconds: float = 0.0
    repeat: int = 1


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    turns: tuple[ScriptedTurn, ...] = ()
    attempts: dict[str, tuple[ScriptedTurn, ...]] = {}


class Transcript(Script, frozen=True, forbid_unknown_fields=True):
    stages: dict[str, Script] = {}


class ScriptedModel:
    def __init__(self, path: Path) -> None:
        """Raises ``ModelRefused`` where the file is not there or is no transcript."""
        self._path = path
        self._transcript = _read(path)
        self._plays: dict[tuple[str, int], _Play] = {}

    async def respond(self, request: ModelRequest) -> ModelAnswer:
        play = self._play(request.stage, request.attempt)
        turn = play.turn(request.turn)
        if turn is None:
            message = (
                f"the transcript {self._path} has {play.length} turns for attempt {request.attempt} of stage "
                f"{request.stage!r}, and the run asks for turn {request.turn + 1}: end it with a call of submit."
            )
            raise ModelRefused(message, slug="request-invalid")
        if turn.delay_seconds > 0:
            await asyncio.sleep(turn.delay_seconds)
        return _answer(turn, request.turn + 1)

    def _play(self, stage: str, attempt: int) -> _Play:
        key = (stage, attempt)
        if key not in self._plays:
            script: Script = self._transcript.stages.get(stage, self._transcript)
            self._plays[key] = _Play(script.attempts.get(str(attempt), script.turns))
        return self._plays[key]


class _Play:
    """Turns by their number, with repeats counted."""

    def __init__(self, turns: Sequence[ScriptedTurn]) -> None:
        self._turns = turns
        self._ends = list(itertools.accumulate(turn.repeat for turn in turns))
        self.length = self._ends[-1] if self._ends else 0

    def turn(self, number: int) -> ScriptedTurn | None:
        return self._turns[bisect.bisect_right(self._ends, number)] if number < self.length else None


def _answer(turn: ScriptedTurn, number: int) -> ModelAnswer:
    calls = tuple(
        CallAsked(
            tool=call.tool,
            arguments=call.arguments
            if isinstance(call.arguments, str)
            else msgspec.json.encode(call.arguments).decode(),
            provider_call_id=f"scripted-{number}-{place}",
        )
        for place, call in enumerate(turn.calls, start=1)
    )
    return ModelAnswer(
        text=turn.text,
        calls=calls,
        stop_reason=turn.stop_reason or ("tool_use" if calls else "end_turn"),
        model="scripted",
        input_tokens=turn.usage.input_tokens,
        output_tokens=turn.usage.output_tokens,
    )


def _read(path: Path) -> Transcript:
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"the transcript {path} cannot be read: {error.strerror}. Correct the agent's transcript."
        raise ModelRefused(message, slug="request-invalid") from error
    try:
        raw = tomllib.loads(data.decode()) if path.suffix == ".toml" else msgspec.json.decode(data)
        transcript = msgspec.convert(raw, Transcript)
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"the transcript {path} is not well formed: {error}."
        raise ModelRefused(message, slug="request-invalid") from error
    if any(turn.repeat < 1 or turn.delay_seconds < 0 for turn in _all_turns(transcript)):
        message = f"the transcript {path} has a turn with repeat below 1 or delay_seconds below 0."
        raise ModelRefused(message, slug="request-invalid")
    return transcript


def _all_turns(transcript: Transcript) -> list[ScriptedTurn]:
    scripts: list[Script] = [transcript, *transcript.stages.values()]
    return [turn for script in scripts for turns in (script.turns, *script.attempts.values()) for turn in turns]
