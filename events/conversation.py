"""The conversation with the model, folded from the events of a run and of its environment.

The events carry deltas: what the model said and asked for stands in the run's log, what its calls came to mostly
in the environment's. ``Conversation`` is fed with both, in log order, and holds what the model is to be shown next
in the words of no particular provider. Every event costs the same, however long the run is.

Two rules that providers insist on hold here: the results of a turn are shown in one message, in the order of the
requests, once all of them are known; and a call without a result is never followed by anything else. A turn that
was left behind with open calls is made whole with a result that says that they were interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from events.content import EMPTY, Content, Inline
from events.environment import ToolCallCompleted, ToolCallFailed, ToolCallInterrupted, ToolCallUncertain
from events.kernel import Event, replace
from events.run import (
    AgentReminded,
    AnswerReceived,
    ModelResponded,
    RunStarted,
    ToolCallRefused,
    ToolCallRequested,
)

INTERRUPTED = "interrupted: this call was ended before it gave a result. Look at what it did before you repeat it."
FORKED = (
    "no result: this conversation was taken over from another run at a point where this call was still open. The "
    "workspace is as it was then; look at it before you repeat the call."
)


class UserText(msgspec.Struct, frozen=True, tag=True):
    """Said to the model by whoever gave the task, or by the loop."""

    text: str


class CallMade(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the model asked for it. ``arguments`` is JSON text, possibly invalid."""

    call_id: str
    tool: str
    arguments: Content


class AssistantTurn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One answer of the model; it may have neither text nor calls."""

    text: str = ""
    calls: tuple[CallMade, ...] = ()


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to: the text that ``content`` stands for and, below it, ``note`` (see ``shown``)."""

    call_id: str
    content: Content = EMPTY
    note: str = ""
    is_error: bool = False

    def shown(self, text: str) -> str:
        """What the model reads, given the text that ``content`` stands for."""
        if not text or not self.note:
            return text or self.note
        return f"{text}{self.note}" if text.endswith("\n") else f"{text}\n{self.note}"


class ToolResults(msgspec.Struct, frozen=True, tag=True):
    """The results of all the calls of the turn before, in the order of the requests."""

    results: tuple[CallResult, ...]


Message = UserText | AssistantTurn | ToolResults


def _completed(event: ToolCallCompleted) -> CallResult:
    """A process that exited with a code other than 0 ran to its end all the same: that is for the model to judge."""
    note = f"[exit code {event.exit_code}]" if event.exit_code else ""
    if event.exit_code == 0 and event.content == EMPTY:
        note = "[no output]"
    return CallResult(call_id=event.call_id, content=event.content, note=note)


def _failed(event: ToolCallFailed) -> CallResult:
    return CallResult(
        call_id=event.call_id, content=event.content, note=f"{event.cause}: {event.detail}", is_error=True
    )


def _told(event: ToolCallUncertain) -> CallResult | None:
    """Any other resolution means that the call is under way again, and its result will follow."""
    if event.resolution != "told-agent":
        return None
    return CallResult(call_id=event.call_id, note=f"uncertain: {event.detail}", is_error=True)


_RESULTS: dict[type[Event], Callable[[Any], CallResult | None]] = {
    ToolCallCompleted: _completed,
    ToolCallFailed: _failed,
    ToolCallInterrupted: lambda event: CallResult(
        call_id=event.call_id, note=f"interrupted: {event.reason}", is_error=True
    ),
    ToolCallUncertain: _told,
    ToolCallRefused: lambda event: CallResult(
        call_id=event.call_id, note=f"{event.cause}: {event.detail}", is_error=True
    ),
    AnswerReceived: lambda event: CallResult(call_id=event.call_id, content=Inline(event.answer)),
}


def call_result(event: Event) -> CallResult | None:
    """What the model is told when ``event`` ends a call; None for every other event."""
    result = _RESULTS.get(type(event))
    return None if result is None else result(event)


class ConversationState(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as a snapshot keeps it: the messages, and of the last turn its calls, those open and results."""

    messages: list[Message]
    turns: int
    calls: list[str]
    open_calls: list[str]
    results: list[CallResult]


class Conversation:
    """Feed it with ``apply``; ``messages`` is what the model is to be shown while no calls are open."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.turns = 0
        self._calls: list[str] = []
        self._open: dict[str, None] = {}
        self._results: dict[str, CallResult] = {}

    @classmethod
    def of(cls, state: ConversationState) -> Conversation:
        """The conversation that a snapshot tells of."""
        conversation = cls()
        conversation.messages = list(state.messages)
        conversation.turns = state.turns
        conversation._calls = list(state.calls)
        conversation._open = dict.fromkeys(state.open_calls)
        conversation._results = {result.call_id: result for result in state.results}
        return conversation

    def state(self) -> ConversationState:
        return ConversationState(
            messages=self.messages,
            turns=self.turns,
            calls=self._calls,
            open_calls=self.open_calls,
            results=[self._results[call_id] for call_id in self._calls if call_id in self._results],
        )

    @property
    def open_calls(self) -> list[str]:
        """The calls of the last turn that have no result yet, in the order of the requests."""
        return list(self._open)

    def result_of(self, call_id: str) -> CallResult | None:
        return self._results.get(call_id)

    def apply(self, event: Event) -> None:
        """Take one event in. Those that say nothing to the model, or answer a call of another run, change nothing."""
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, AgentReminded):
            self._say(event.text)
        elif isinstance(event, ModelResponded):
            self._begin_turn(event.text)
        elif isinstance(event, ToolCallRequested):
            self._request(event)
        elif (result := call_result(event)) is not None:
            self._answer(result)

    def close_open_calls(self, text: str = INTERRUPTED) -> None:
        """Give every open call ``text`` as its result. A result that arrives later is ignored."""
        for call_id in self.open_calls:
            self._answer(CallResult(call_id=call_id, note=text, is_error=True))

    def _start(self, event: RunStarted) -> None:
        """A forked run goes on with the conversation of the run before, which was fed in first."""
        if event.forked_from is not None:
            self.close_open_calls(FORKED)
        if event.prompt or event.forked_from is None:
            self._say(event.prompt)

    def _say(self, text: str) -> None:
        self.close_open_calls()
        self.messages.append(UserText(text))

    def _begin_turn(self, text: str) -> None:
        self.close_open_calls()
        self.messages.append(AssistantTurn(text=text))
        self.turns += 1
        self._calls = []

    def _request(self, event: ToolCallRequested) -> None:
        if event.call_id in self._open or event.call_id in self._results:
            return
        call = CallMade(call_id=event.call_id, tool=event.tool, arguments=event.arguments)
        if self.messages and isinstance(self.messages[-1], ToolResults):
            # All calls so far were refused in the decision that requested them, and this is one more of that turn.
            self.messages.pop()
        if not self.messages or not isinstance(self.messages[-1], AssistantTurn):
            self._begin_turn("")
        turn = self.messages[-1]
        assert isinstance(turn, AssistantTurn)
        self.messages[-1] = replace(turn, calls=(*turn.calls, call))
        self._calls.append(event.call_id)
        self._open[event.call_id] = None

    def _answer(self, result: CallResult) -> None:
        """The first result counts: what the model was shown is never changed afterwards."""
        if result.call_id not in self._open:
            return
        del self._open[result.call_id]
        self._results[result.call_id] = result
        if not self._open:
            self.messages.append(ToolResults(tuple(self._results[call_id] for call_id in self._calls)))
