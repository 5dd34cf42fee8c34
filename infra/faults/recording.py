"""What a model said, taken from the log of a task as a transcript that the scripted model plays back.

So a task can be done again and again as it was done the first time, without asking the model or paying for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from events.content import Content
from events.envelope import Recorded
from events.run import ModelResponded, RunStarted, ToolCallRequested

Json = dict[str, Any]


async def transcript_of(records: Sequence[Recorded], read: Callable[[Content], Awaitable[str]]) -> Json:
    """The turns of every run of the task, by stage and attempt. ``read`` gives the text of a content."""
    stages: dict[str, dict[str, list[Json]]] = {}
    turns_of: dict[str, list[Json]] = {}
    for record in records:
        for event in record.envelope.events:
            run = record.envelope.entity_id
            if isinstance(event, RunStarted):
                turns_of[run] = stages.setdefault(event.stage, {}).setdefault(str(event.attempt), [])
            elif isinstance(event, ModelResponded):
                turns_of[run].append({"text": event.text, "stop_reason": event.stop_reason, "calls": []})
            elif isinstance(event, ToolCallRequested) and turns_of.get(run):
                turns_of[run][-1]["calls"].append({"tool": event.tool, "arguments": await read(event.arguments)})
    return {"stages": {name: {"attempts": attempts} for name, attempts in stages.items()}}
