"""A pull request: a branch offered for review. Owned by the environment-manager.

With no forge it is ``local``: the whole life of it is here, and merging is a push to the project's remote.
"""

from __future__ import annotations

import msgspec

from events.content import EMPTY, Content
from events.kernel import Command, Entity, Event, evolver, replace


class ApprovePullRequest(Command, frozen=True, kw_only=True):
    comment: str = ""


class MergePullRequest(Command, frozen=True, kw_only=True):
    pass


class ClosePullRequest(Command, frozen=True, kw_only=True):
    reason: str = ""


class PullRequestOpened(Event, frozen=True, kw_only=True):
    """``diff`` is the unified diff of ``base_commit``...``head_commit``; ``forge`` is ``local`` where there is none."""

    task_id: str
    repository_url: str
    title: str
    description: str
    base: str
    base_commit: str
    head: str
    head_commit: str
    diff: Content = EMPTY
    files_changed: int = 0
    lines_added: int = 0
    lines_removed: int = 0
    forge: str = "local"


class PullRequestRevised(Event, frozen=True, kw_only=True):
    """The branch was pushed again; an approval given before does not hold for it."""

    head_commit: str
    base_commit: str
    diff: Content = EMPTY
    files_changed: int = 0
    lines_added: int = 0
    lines_removed: int = 0


class PullRequestApproved(Event, frozen=True, kw_only=True):
    by: str
    comment: str = ""


class PullRequestMerged(Event, frozen=True, kw_only=True):
    commit: str
    by: str = ""


class PullRequestMergeRefused(Event, frozen=True, kw_only=True):
    """The remote or a conflict stood against it; the pull request stays open."""

    cause: str
    detail: str


class PullRequestClosed(Event, frozen=True, kw_only=True):
    reason: str = ""
    by: str = ""


class PullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``state`` is absent, open, approved, merged or closed."""

    id: str
    state: str = "absent"
    opened: PullRequestOpened | None = None
    head_commit: str = ""
    merge_commit: str = ""


PULL_REQUEST: Entity[PullRequest] = Entity(
    name="pull_request",
    initial=lambda id: PullRequest(id=id),
    evolve=evolver(
        {
            PullRequestOpened: lambda state, event: replace(
                state, state="open", opened=event, head_commit=event.head_commit
            ),
            PullRequestRevised: lambda state, event: replace(state, state="open", head_commit=event.head_commit),
            PullRequestApproved: lambda state, event: replace(state, state="approved"),
            PullRequestMerged: lambda state, event: replace(state, state="merged", merge_commit=event.commit),
            PullRequestClosed: lambda state, event: replace(state, state="closed"),
        }
    ),
)
