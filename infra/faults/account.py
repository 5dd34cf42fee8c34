"""What a task came to, as the log tells it, in a form in which two tasks that did the same are equal.

The task's own id, places, times, durations and commits (which hold times) are left out, trees and contents are not:
the same work gives the same ones. Events that only tell of a recovery are counted apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from events.conversation import Conversation
from events.delivery import DELIVERY, DeliveryPlanned
from events.envelope import Recorded
from events.environment import (
    ENVIRONMENT,
    EnvironmentPrepared,
    EnvironmentRemoved,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.kernel import Event
from events.run import RUN, ToolCallRefused, ToolCallRequested
from events.task import TaskBlocked, TaskCancelled, TaskCompleted, TaskFailed

TASK_ENDS = (TaskCompleted, TaskFailed, TaskBlocked, TaskCancelled)
CALL_ENDS = (ToolCallCompleted, ToolCallFailed, ToolCallInterrupted)
# The runner's own: what they come to is no event of the environment.
WITHOUT_END = frozenset({"submit", "ask_human"})

# What there is more of after a crash.
RECOVERY = frozenset(
    {"RunInterrupted", "RunResumed", "ToolCallUncertain", "EnvironmentInspected", "OrphanRemoved", "CheckpointBundled"}
)

# Times, places and names of processes, and commits, which hold times.
VOLATILE = frozenset(
    {
        "base_commit",
        "checkpoint",
        "commit",
        "duration_ms",
        "epoch",
        "head_commit",
        "host",
        "number",
        "occurred_at",
        "remote",
        "restored",
        "retry_at",
        "runner",
        "sequence",
        "submission_id",
        "workspace",
    }
)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call: how often it began and how often it ended in the log, and how it was resolved where it was
    uncertain. ``changed`` says that the workspace was another after it."""

    id: str
    tool: str
    effects: str
    retry: str
    starts: int = 0
    ends: int = 0
    refused: bool = False
    exit_code: int | None = None
    changed: bool = False
    resolutions: tuple[str, ...] = ()


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """``conversations`` are what the model was shown, by run; ``executions`` what was counted outside the log."""

    task: str
    ended: str
    events: Counter[str]
    recovery: Counter[str]
    conversations: dict[str, list[str]]
    trees: dict[str, str]
    calls: tuple[Call, ...]
    executions: Counter[str]
    settled: bool

    def differences(self, other: Account) -> list[str]:
        """What is not the same in ``other``, in words; nothing where it came to the same."""
        found = []
        if self.ended != other.ended:
            found.append(f"the task ended with {other.ended or 'nothing'}, not {self.ended}")
        found += [f"missing: {text}" for text in (self.events - other.events).elements()]
        found += [f"too much: {text}" for text in (other.events - self.events).elements()]
        for run in self.conversations.keys() | other.conversations.keys():
            expected, shown = self.conversations.get(run, []), other.conversations.get(run, [])
            place = _first_difference(expected, shown)
            if place is not None:
                found.append(
                    f"the model was shown another message {place + 1} in {run}: "
                    f"{_at(shown, place)} and not {_at(expected, place)}"
                )
        found += [
            f"another tree in {name}: {other.trees.get(name, 'none')}, not {tree}"
            for name, tree in self.trees.items()
            if other.trees.get(name) != tree
        ]
        for name in self.executions.keys() | other.executions.keys():
            if self.executions[name] != other.executions[name]:
                found.append(f"{name} was executed {other.executions[name]} times, not {self.executions[name]}")
        return found + other.violations()

    def events_named(self, name: str) -> list[str]:
        """The events of that name, each as often as it happened."""
        return [text for text in self.events.elements() if f'"type":"{name}"' in text]

    def executed(self, call_id: str) -> int:
        """How often executions of that call were counted."""
        name = _neutral(call_id, self.task)
        return sum(count for line, count in self.executions.items() if line.split()[0] == name)

    def violations(self) -> list[str]:
        """What must not be in any log, whatever was killed."""
        found = [f"{call.tool} {call.id} has {call.ends} ends" for call in self.calls if call.ends > 1]
        found += [f"{call.tool} {call.id} was started {call.starts} times" for call in self.calls if call.starts > 1]
        if self.ended == TaskCompleted.__name__:
            awaited = [call for call in self.calls if not call.refused and call.tool not in WITHOUT_END]
            found += [f"{call.tool} {call.id} never ended" for call in awaited if not call.ends]
        return found


def belongs(task: str, record: Recorded, deliveries: dict[str, str]) -> bool:
    """Whether a record is about the task. ``deliveries`` remembers what each delivery is about."""
    envelope = record.envelope
    if envelope.entity == DELIVERY.name:
        for event in envelope.events:
            if isinstance(event, DeliveryPlanned):
                deliveries[envelope.entity_id] = event.subject_id
        return _of(deliveries.get(envelope.entity_id, ""), task)
    return _of(envelope.entity_id, task)


def _of(id: str, task: str) -> bool:
    return id == task or id.startswith(f"{task}-")


def account_of(task: str, records: Sequence[Recorded], executions: Iterable[str] = ()) -> Account:
    """``executions`` are lines that name what was executed, and the task."""
    ended, events, recovery = "", Counter[str](), Counter[str]()
    conversations = _conversations(records)
    trees: dict[str, str] = {}
    environments, waiting = 0, 0
    for record in records:
        for event in record.envelope.events:
            name = type(event).__name__
            if isinstance(event, TASK_ENDS):
                ended = name
            (recovery if name in RECOVERY else events)[_signature(task, record, event)] += 1
            tree: str = getattr(event, "tree", "")
            if tree and record.envelope.entity == ENVIRONMENT.name:
                trees[_neutral(record.envelope.entity_id, task)] = tree
            environments += isinstance(event, EnvironmentPrepared) - isinstance(event, EnvironmentRemoved)
            waiting += isinstance(event, DeliveryPlanned) - (name in ("DeliverySucceeded", "DeliveryAbandoned"))
    kept = ended in (TaskFailed.__name__, TaskBlocked.__name__)
    return Account(
        task=task,
        ended=ended,
        events=events,
        recovery=recovery,
        conversations={_neutral(run, task): [_neutral(text, task) for text in shown] for run, shown in conversations},
        trees=trees,
        calls=_calls(records),
        executions=Counter(_neutral(line, task) for line in executions),
        settled=bool(ended) and not waiting and (kept or not environments),
    )


def _conversations(records: Sequence[Recorded]) -> list[tuple[str, list[str]]]:
    """What the model was shown in each run: the run's events and its environment's, in the order of the log."""
    runs: dict[str, Conversation] = {}
    for record in records:
        entity, id = record.envelope.entity, record.envelope.entity_id
        if entity == RUN.name:
            runs.setdefault(id, Conversation())
        for run, conversation in runs.items():
            if (entity == RUN.name and id == run) or entity == ENVIRONMENT.name:
                for event in record.envelope.events:
                    conversation.apply(event)
    return [
        (run, [msgspec.json.encode(message).decode() for message in conversation.messages])
        for run, conversation in runs.items()
    ]


def _calls(records: Sequence[Recorded]) -> tuple[Call, ...]:
    calls: dict[str, Call] = {}
    for record in records:
        for event in record.envelope.events:
            if isinstance(event, ToolCallRequested | ToolCallStarted) and event.call_id not in calls:
                calls[event.call_id] = Call(id=event.call_id, tool=event.tool, effects=event.effects, retry=event.retry)
            call = calls.get(getattr(event, "call_id", ""))
            if call is not None:
                calls[call.id] = _after(call, event)
    return tuple(calls.values())


def _after(call: Call, event: Event) -> Call:
    match event:
        case ToolCallStarted():
            return msgspec.structs.replace(call, starts=call.starts + 1)
        case ToolCallCompleted(checkpoint=checkpoint, exit_code=code):
            return msgspec.structs.replace(call, ends=call.ends + 1, changed=bool(checkpoint), exit_code=code)
        case ToolCallFailed(checkpoint=checkpoint, exit_code=code):
            return msgspec.structs.replace(call, ends=call.ends + 1, changed=bool(checkpoint), exit_code=code)
        case ToolCallInterrupted():
            return msgspec.structs.replace(call, ends=call.ends + 1)
        case ToolCallUncertain(resolution=resolution):
            return msgspec.structs.replace(call, resolutions=(*call.resolutions, resolution))
        case ToolCallRefused():
            return msgspec.structs.replace(call, refused=True)
        case _:
            return call


def _signature(task: str, record: Recorded, event: Event) -> str:
    id = "" if record.envelope.entity == DELIVERY.name else record.envelope.entity_id
    fields = {"type": type(event).__name__, **_stable(event)}
    return _neutral(f"{record.envelope.entity} {id} {msgspec.json.encode(fields, order='sorted').decode()}", task)


def _stable(value: Any) -> Any:
    """Without what is volatile; every field is there, its default or not."""
    if isinstance(value, msgspec.Struct):
        return {key: _stable(getattr(value, key)) for key in value.__struct_fields__ if key not in VOLATILE}
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    return value


def _neutral(text: str, task: str) -> str:
    """The same for every task: its id is a word of its own wherever it stands."""
    return re.sub(rf"(?<![\w-]){re.escape(task)}(?!\d)", "TASK", text)


def _first_difference(expected: Sequence[str], shown: Sequence[str]) -> int | None:
    for place in range(max(len(expected), len(shown))):
        if _at(expected, place) != _at(shown, place):
            return place
    return None


def _at(messages: Sequence[str], place: int) -> str:
    return messages[place] if place < len(messages) else "nothing"
