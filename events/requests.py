"""What people ask of an environment themselves, without an agent: a call in it, or that it goes.

A person may use every tool. What was asked is in the log before it is begun, like the calls of agents.
"""

from __future__ import annotations

from events.content import Content
from events.kernel import Command, Event


class RequestCall(Command, frozen=True, kw_only=True):
    """Have a tool executed. ``arguments`` is the text of a JSON object. The call's id follows from the command's
    (``events.names.requested_call_id``)."""

    tool: str
    arguments: Content


class RemoveEnvironment(Command, frozen=True, kw_only=True):
    """End everything in an environment and remove it; its checkpoints stay. Not while a run goes on in it."""

    reason: str = ""


class CallRequested(Event, frozen=True, kw_only=True):
    """A person (``by``) wants this executed; it begins in its turn."""

    call_id: str
    tool: str
    arguments: Content
    effects: str
    retry: str = "never"
    by: str = ""
