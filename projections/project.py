"""Projects: one row each, made when the project is added."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.envelope import Envelope
from events.project import ProjectAdded
from projections.projection import Projection, json_text, plain, replace


class ProjectRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    prefix: str = ""
    repository_url: str = ""
    base_branch: str = ""
    test_command: str = ""
    agents_at_once: int = 0
    pipeline: str = "null"
    settings: str = "null"
    created_at: datetime
    updated_at: datetime
    sequence: int = 0


def _added(row: ProjectRow, event: ProjectAdded, envelope: Envelope) -> ProjectRow:
    settings = event.settings
    return replace(
        row,
        prefix=settings.prefix,
        repository_url=settings.repository.url,
        base_branch=settings.repository.base_branch,
        test_command=settings.test_command,
        agents_at_once=settings.agents_at_once,
        pipeline=json_text(settings.pipeline),
        settings=json_text(settings),
    )


PROJECTS: Projection[ProjectRow] = plain(
    "projects",
    ProjectRow,
    lambda id, time: ProjectRow(id=id, created_at=time, updated_at=time),
    {ProjectAdded: _added},
)
