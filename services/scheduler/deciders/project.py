"""What may be said about a project, and what follows."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from events.divergence import POLICIES
from events.errors import CommandRejected, Invalid
from events.kernel import Event, replace
from events.names import checked_name, prefixes_clash
from events.pipeline import checked
from events.project import AddProject, Project, ProjectAdded, ProjectSettings
from events.sandboxes import check_isolation, check_sandbox
from events.systems import ALLOWABLE

MAX_AGENTS_AT_ONCE = 5


class ProjectExists(CommandRejected):
    """There is a project of that name already, with other settings."""

    slug = "project-exists"


def add(project: Project, command: AddProject, *, taken_prefixes: Collection[str]) -> tuple[Event, ...]:
    """Add a project. ``taken_prefixes`` are those of the other projects: an id is one of one project only."""
    settings = _checked(project.id, command.settings)
    if project.settings is not None:
        if project.settings == settings:
            return ()
        message = f"project {project.id!r} exists already, with other settings: choose another name."
        raise ProjectExists(message)
    for taken in sorted(taken_prefixes):
        if prefixes_clash(settings.prefix, taken):
            whose = "that" if settings.prefix == taken else f"too like {taken!r}, that"
            message = f"the prefix {settings.prefix!r} is {whose} of another project: choose one with --prefix."
            raise ProjectExists(message, slug="prefix-taken")
    return (ProjectAdded(settings=settings),)


def _checked(name: str, settings: ProjectSettings) -> ProjectSettings:
    checked_name(name, "project")
    checked_name(settings.prefix, "prefix")
    if not settings.repository.url.strip():
        message = "a project needs a repository: a path or a URL that git understands."
        raise Invalid(message)
    if not 1 <= settings.agents_at_once <= MAX_AGENTS_AT_ONCE:
        message = f"agents_at_once is {settings.agents_at_once}; it must be from 1 to {MAX_AGENTS_AT_ONCE}."
        raise Invalid(message)
    if not 1 <= settings.max_attempts <= 10:
        message = f"max_attempts is {settings.max_attempts}; it must be from 1 to 10."
        raise Invalid(message)
    check_isolation(settings.isolation)
    check_sandbox(settings.sandbox)
    if settings.on_divergence not in POLICIES:
        message = f"on_divergence {settings.on_divergence!r} is not known; known: {', '.join(POLICIES)}."
        raise Invalid(message)
    for name in settings.compose_allow:
        if name not in ALLOWABLE:
            near = difflib.get_close_matches(name, ALLOWABLE, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(ALLOWABLE)}."
            message = f"compose_allow names {name!r}, which is nothing that Compose files are refused for: {meant}"
            raise Invalid(message)
    return replace(settings, pipeline=checked(settings.pipeline))
