"""Where a forked task begins: a step of another run."""

from __future__ import annotations

import msgspec


class ForkedFrom(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The run and the sequence of the log up to which its conversation is taken over, and the checkpoint that its
    workspace had then. ``host`` is where that checkpoint lies, ``stage`` the stage that goes on from there.
    ``prompt`` is said to the agent after that conversation."""

    run_id: str
    sequence: int
    stage: str
    environment_id: str
    commit: str
    host: str
    prompt: str = ""
