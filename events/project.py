"""A project: a repository, its pipeline, limits and agents. Owned by the scheduler."""

from __future__ import annotations

import msgspec

from events.kernel import Command, Entity, Event, evolver, replace
from events.pipeline import DEVELOPMENT, Pipeline
from events.sandboxes import Sandbox


class Repository(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the code is: a path or URL that git understands, and the branch that work starts from and returns to.

    An empty ``base_branch`` means the repository's own default branch.
    """

    url: str
    base_branch: str = ""


class ProjectSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything of a project that a person chooses.

    ``agents_at_once`` bounds the project's agents that run at the same time (1–5). ``roles`` maps a pipeline's role
    to an agent's name; a task's own agent goes before it. ``secrets`` maps names of environment variables, as the
    project's processes see them, to references such as ``env:NAME`` or ``file:PATH``. ``on_divergence`` says what
    follows where a run finds the world other than the log tells it (``events.divergence.POLICIES``).
    ``compose_allow`` names what its Compose files may ask for all the same (``events.systems.ALLOWABLE``).
    """

    repository: Repository
    prefix: str
    test_command: str = ""
    agents_at_once: int = 3
    max_attempts: int = 2
    pipeline: Pipeline = DEVELOPMENT
    roles: dict[str, str] = {}
    secrets: dict[str, str] = {}
    isolation: str = "worktree"
    sandbox: Sandbox = Sandbox()
    on_divergence: str = "ask"
    compose_allow: tuple[str, ...] = ()

    def agent_for(self, role: str, asked: str) -> str:
        """The agent that does ``role``: the one that the task ``asked`` for, else the one that the project gives the
        role, else one named like it."""
        return asked or self.roles.get(role, role)


class AddProject(Command, frozen=True, kw_only=True):
    settings: ProjectSettings


class ProjectAdded(Event, frozen=True, kw_only=True):
    settings: ProjectSettings


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """``settings`` is None for a project that does not exist."""

    id: str
    settings: ProjectSettings | None = None


PROJECT: Entity[Project] = Entity(
    name="project",
    initial=lambda id: Project(id=id),
    evolve=evolver({ProjectAdded: lambda state, event: replace(state, settings=event.settings)}),
)
