"""What may be asked about an environment's checkpoints: commands to the environment-manager of the host where they
lie. Nothing is decided and no event follows: the answer goes into the content store, and the outcome names its
digest (``Outcome.content``).
"""

from __future__ import annotations

from events.kernel import Command


class CompareCheckpoints(Command, frozen=True, kw_only=True):
    """The unified diff between two checkpoints, as text."""

    older: str
    newer: str


class PackWorkspace(Command, frozen=True, kw_only=True):
    """The workspace as the checkpoint ``commit`` holds it, as a tar archive."""

    commit: str


class BundleCheckpoints(Command, frozen=True, kw_only=True):
    """Every checkpoint of the environment with what they stand upon, as a git bundle."""
