"""Pull requests: one row each."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.content import EMPTY
from events.envelope import Envelope
from events.pull_request import (
    PullRequestApproved,
    PullRequestClosed,
    PullRequestMerged,
    PullRequestMergeRefused,
    PullRequestOpened,
    PullRequestRevised,
)
from projections.projection import Projection, json_text, plain, replace


class PullRequestRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    task_id: str = ""
    repository_url: str = ""
    title: str = ""
    description: str = ""
    base: str = ""
    base_commit: str = ""
    head: str = ""
    head_commit: str = ""
    diff: str = json_text(EMPTY)
    files_changed: int = 0
    lines_added: int = 0
    lines_removed: int = 0
    state: str = "open"
    forge: str = ""
    approved_by: str = ""
    merge_commit: str = ""
    detail: str = ""
    opened_at: datetime
    updated_at: datetime
    sequence: int = 0


def _opened(row: PullRequestRow, event: PullRequestOpened, envelope: Envelope) -> PullRequestRow:
    return replace(
        _revised(row, event, envelope),
        task_id=event.task_id,
        repository_url=event.repository_url,
        title=event.title,
        description=event.description,
        base=event.base,
        head=event.head,
        forge=event.forge,
        opened_at=envelope.time,
    )


def _revised(row: PullRequestRow, event: PullRequestOpened | PullRequestRevised, envelope: Envelope) -> PullRequestRow:
    return replace(
        row,
        head_commit=event.head_commit,
        base_commit=event.base_commit,
        diff=json_text(event.diff),
        files_changed=event.files_changed,
        lines_added=event.lines_added,
        lines_removed=event.lines_removed,
        state="open",
        approved_by="",
        detail="",
    )


def _merge_refused(row: PullRequestRow, event: PullRequestMergeRefused, envelope: Envelope) -> PullRequestRow:
    return replace(row, detail=f"{event.cause}: {event.detail}")


PULL_REQUESTS: Projection[PullRequestRow] = plain(
    "pull_requests",
    PullRequestRow,
    lambda id, time: PullRequestRow(id=id, opened_at=time, updated_at=time),
    {
        PullRequestOpened: _opened,
        PullRequestRevised: _revised,
        PullRequestApproved: lambda row, event, envelope: replace(row, state="approved", approved_by=event.by),
        PullRequestMerged: lambda row, event, envelope: replace(
            row, state="merged", merge_commit=event.commit, detail=""
        ),
        PullRequestMergeRefused: _merge_refused,
        PullRequestClosed: lambda row, event, envelope: replace(row, state="closed", detail=event.reason),
    },
)
