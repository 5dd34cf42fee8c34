"""What may follow for a pull request. A merge happens in the world first: ``merge`` says whether it may be tried,
``merged`` and ``refuse_merge`` record what came of it."""

from __future__ import annotations

from events.errors import CommandRejected, NotFound
from events.kernel import Event
from events.pull_request import (
    ApprovePullRequest,
    ClosePullRequest,
    PullRequest,
    PullRequestApproved,
    PullRequestClosed,
    PullRequestMerged,
    PullRequestMergeRefused,
    PullRequestOpened,
    PullRequestRevised,
)

Events = tuple[Event, ...]

LIVE = ("open", "approved")


def open_or_revise(state: PullRequest, opened: PullRequestOpened) -> Events:
    """The branch stands at ``opened.head_commit``: a new pull request, a revision of it, or nothing new.

    After a merge or a close, another commit opens it anew.
    """
    if state.head_commit == opened.head_commit:
        return ()
    if state.state not in LIVE:
        return (opened,)
    revised = PullRequestRevised(
        head_commit=opened.head_commit,
        base_commit=opened.base_commit,
        diff=opened.diff,
        files_changed=opened.files_changed,
        lines_added=opened.lines_added,
        lines_removed=opened.lines_removed,
    )
    return (revised,)


def approve(state: PullRequest, command: ApprovePullRequest, by: str) -> Events:
    _exists(state)
    if state.state == "approved":
        return ()
    _still_open(state, "approved")
    return (PullRequestApproved(by=by, comment=command.comment),)


def merge(state: PullRequest) -> PullRequestOpened | None:
    """What is to be merged, or None where it is merged already. Raises where it may not be."""
    opened = _exists(state)
    if state.state == "merged":
        return None
    _still_open(state, "merged")
    if state.state != "approved":
        message = f"Pull request {state.id} is not approved: approve it first (cairn pr approve {state.id})."
        raise CommandRejected(message, slug="pull-request-not-approved")
    return opened


def merged(state: PullRequest, commit: str, by: str) -> Events:
    """The remote has it. That holds whatever was decided here meanwhile."""
    _exists(state)
    return () if state.state == "merged" else (PullRequestMerged(commit=commit, by=by),)


def refuse_merge(state: PullRequest, cause: str, detail: str) -> Events:
    """The remote or a conflict stood against it: said each time, as somebody waits for it."""
    _exists(state)
    return () if state.state == "merged" else (PullRequestMergeRefused(cause=cause, detail=detail),)


def close(state: PullRequest, command: ClosePullRequest, by: str) -> Events:
    _exists(state)
    if state.state == "closed":
        return ()
    _still_open(state, "closed")
    return (PullRequestClosed(reason=command.reason, by=by),)


def _exists(state: PullRequest) -> PullRequestOpened:
    if state.opened is None:
        message = f"There is no pull request {state.id}: see cairn pr list."
        raise NotFound(message, slug="unknown-pull-request")
    return state.opened


def _still_open(state: PullRequest, wanted: str) -> None:
    if state.state not in LIVE:
        message = f"Pull request {state.id} is {state.state} and cannot be {wanted} any more."
        raise CommandRejected(message, slug=f"pull-request-{state.state}")
