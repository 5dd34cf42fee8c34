"""What the gateway needs beyond the plumbing: the read model, and why a task does not run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from events.environment import Environment
from events.errors import Transient
from projections.queries import ReadModels


class Obstacle(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reason why a task does not run. ``kind`` is a slug, ``detail`` a sentence, ``ids`` what stands in the way:
    tasks, stages, questions' call ids or running tasks, as the kind has it."""

    kind: str
    detail: str
    ids: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task stands where it stands. ``obstacles`` is empty where it runs, is about to, or has ended."""

    task_id: str
    status: str
    summary: str
    obstacles: tuple[Obstacle, ...] = ()


class Explainer(Protocol):
    async def explain(self, task_id: str) -> Explanation | None:
        """Why the task stands where it stands; None where there is no such task. Raises ``Transient``."""


class ReadModelProgress(Protocol):
    @property
    def sequence(self) -> int:
        """The last decision that the read models are known to hold."""

    async def wait_for(self, sequence: int, timeout_seconds: float) -> bool:
        """Whether the read models hold the decision ``sequence`` within the time."""


class HostSilent(Transient):
    """The host that has a checkpoint does not answer."""


class Checkpoints(Protocol):
    """What the workspaces of environments were. ``environment`` is the present one. Every method raises
    ``CommandRejected`` where a checkpoint is gone, ``HostSilent`` and ``Transient``."""

    async def diff(self, environment: Environment, older: str, newer: str) -> bytes:
        """The unified diff between two checkpoints, UTF-8."""

    async def pack(self, environment: Environment, commit: str) -> bytes:
        """The files of a checkpoint as a tar archive, compressed with gzip."""

    async def check(self, environment: Environment, commit: str) -> None:
        """Nothing where the checkpoint is there; answers soon."""

    async def bundle(self, environment: Environment) -> bytes:
        """Every checkpoint of the environment, with all that they stand upon, as a git bundle."""


OpenReadModels = Callable[[], Awaitable[ReadModels]]
"""The read models, opened when they are first asked for. Raises ``Transient``, ``Permanent``."""
