"""Tools that are neither processes under the shim nor work on files: each is an operation of this process.

An operation is registered by the type of its arguments (``Plumbing.operations``). It says what it does as it goes, and
answers with what the agent is shown and the facts that the log is to hold of it, which are appended in one decision
with the end of the call. When this process dies the operation dies with it: its call is uncertain then, and goes on as
the tool declares.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from events.environment import Environment, ExecuteTool
from events.kernel import Event
from events.tools import Arguments, Noop


@dataclass(frozen=True)
class Asked:
    """One call. ``directory`` is the environment's, ``variables`` are its secrets by name; ``say`` puts text into the
    output that a person watches."""

    environment: Environment
    command: ExecuteTool
    arguments: Arguments
    directory: Path
    variables: Mapping[str, str]
    say: Callable[[str], Awaitable[None]]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """``text`` is the result. Where ``cause`` is set, a slug, the call failed, and ``detail`` says why and what to
    do."""

    text: str = ""
    exit_code: int | None = None
    cause: str = ""
    detail: str = ""
    facts: tuple[Event, ...] = ()


# Raises ``Transient`` or ``Permanent``; is cancelled where the call is interrupted or out of time.
Operation = Callable[[Asked], Awaitable[Done]]
Operations = Mapping[type[Arguments], Operation]


async def noop(asked: Asked) -> Done:
    assert isinstance(asked.arguments, Noop)
    return Done(text=asked.arguments.text)


# Those that need nothing from outside.
OPERATIONS: Operations = {Noop: noop}
