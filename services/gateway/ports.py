"""What the gateway needs beyond the plumbing: the read model, and why a task does not run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

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


OpenReadModels = Callable[[], Awaitable[ReadModels]]
"""The read models, opened when they are first asked for. Raises ``Transient``, ``Permanent``."""
