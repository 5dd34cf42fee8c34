"""Pipelines as data: stages with needs, an agent role, a gate, approval, and what a failure does.

A stage runs when every stage it needs has passed; stages that do not need one another run in parallel, and one
that needs several is a merge point that receives all their outputs. A stage does its parts in the order agent,
gate, approval, and passes when all that it has have passed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

from events.errors import Invalid
from events.names import checked_name
from events.tools import GROUPS

MAX_STAGES = 50


class TestsGate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tests", tag_field="kind"):
    """The orchestrator runs ``command`` in the stage's workspace and looks at its exit code.

    Without a command it is the task's, else the project's test command; a task that has none passes.
    """

    __test__ = False
    command: str = ""
    time_limit_seconds: float = 1800.0


class PullRequestGate(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="pull_request", tag_field="kind"
):
    """The orchestrator pushes the branch and opens a pull request; passes when it is open."""


# How the checks of the gates are called.
EXPERIMENT_GATE = "experiment"


class ExperimentGate(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=EXPERIMENT_GATE, tag_field="kind"
):
    """The orchestrator runs the experiment in the file ``document`` of the stage's workspace, on the system of its
    Compose file, brought up anew; passes when it completes. What it found is what the stage that it rolls back to is
    told."""

    document: str
    time_limit_seconds: float = 1800.0


Gate = TestsGate | PullRequestGate | ExperimentGate


class Stage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of a pipeline. Without ``role`` no agent runs; ``rollback_to`` is where a failed gate leads.
    ``tools`` are the groups of tools that its agent has beside those that every agent has
    (``events.tools.GROUPS``)."""

    name: str
    needs: tuple[str, ...] = ()
    role: str = ""
    instructions: str = ""
    tools: tuple[str, ...] = ()
    gate: Gate | None = None
    approval: bool = False
    rollback_to: str = ""
    rollback_limit: int = 3
    time_limit_seconds: float = 1800.0
    idle_limit_seconds: float = 600.0


class Pipeline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The stages of a task, in an order in which each comes after what it needs."""

    name: str
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def worker(self, name: str) -> str:
        """The stage whose agent does the work that ``name`` looks at and hands on: itself where it has one, else the
        one before it; empty where none does."""
        stage = self.stage(name)
        while not stage.role and stage.needs:
            stage = self.stage(stage.needs[0])
        return stage.name if stage.role else ""

    def dependents(self, name: str) -> frozenset[str]:
        """Every stage that needs ``name``, directly or through others."""
        found: set[str] = set()
        for stage in self.stages:
            if any(need == name or need in found for need in stage.needs):
                found.add(stage.name)
        return frozenset(found)


DEVELOPMENT = Pipeline(
    name="development",
    stages=(
        Stage(name="development", role="developer"),
        Stage(name="test", needs=("development",), gate=TestsGate(), rollback_to="development"),
        Stage(name="publish", needs=("test",), gate=PullRequestGate()),
    ),
)


def checked(pipeline: Pipeline) -> Pipeline:
    """The pipeline with its stages in topological order, else ``Invalid`` with the stage and the rule it breaks."""
    stages = {stage.name: stage for stage in pipeline.stages}
    if not stages or len(stages) > MAX_STAGES:
        message = f"pipeline {pipeline.name!r} has {len(stages)} stages; it needs 1 to {MAX_STAGES}."
        raise Invalid(message, slug="invalid-pipeline")
    if len({name.lower() for name in stages}) != len(pipeline.stages):
        message = f"pipeline {pipeline.name!r} names a stage twice (upper and lower case are the same)."
        raise Invalid(message, slug="invalid-pipeline")
    for stage in pipeline.stages:
        checked_name(stage.name, "stage")
        for other in (*stage.needs, *filter(None, [stage.rollback_to])):
            if other not in stages:
                message = f"stage {stage.name!r} names {other!r}, which is no stage of pipeline {pipeline.name!r}."
                raise Invalid(message, slug="invalid-pipeline")
        if isinstance(stage.gate, ExperimentGate) and not stage.gate.document.strip():
            message = f"the experiment gate of stage {stage.name!r} has no document: name the file in the workspace."
            raise Invalid(message, slug="invalid-pipeline")
        if not (stage.role or stage.gate or stage.approval):
            message = f"stage {stage.name!r} has no role, no gate and no approval: it would do nothing."
            raise Invalid(message, slug="invalid-pipeline")
        _check_tools(stage)
        if len(stage.needs) > 1 and not stage.role:
            message = f"stage {stage.name!r} needs several stages but has no agent to join their work: give it a role."
            raise Invalid(message, slug="invalid-pipeline")
    cycle = find_cycle({stage.name: stage.needs for stage in pipeline.stages})
    if cycle:
        message = f"stages of pipeline {pipeline.name!r} need one another in a circle: {' → '.join(cycle)}."
        raise Invalid(message, slug="invalid-pipeline")
    ordered: dict[str, Stage] = {}
    while len(ordered) < len(stages):
        for stage in pipeline.stages:
            if stage.name not in ordered and all(need in ordered for need in stage.needs):
                ordered[stage.name] = stage
    worked: set[str] = set()
    for stage in ordered.values():
        if stage.role or worked.intersection(stage.needs):
            worked.add(stage.name)
        elif stage.gate:
            message = f"stage {stage.name!r} has a gate, but no agent works before it: there is nothing to check."
            raise Invalid(message, slug="invalid-pipeline")
        if stage.rollback_to and stage.name not in {stage.rollback_to, *_dependents(ordered.values(), stage)}:
            message = f"stage {stage.name!r} rolls back to {stage.rollback_to!r}, which does not come before it."
            raise Invalid(message, slug="invalid-pipeline")
    return msgspec.structs.replace(pipeline, stages=tuple(ordered.values()))


def _check_tools(stage: Stage) -> None:
    for group in stage.tools:
        if group not in GROUPS:
            near = difflib.get_close_matches(group, GROUPS, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(GROUPS)}."
            message = f"stage {stage.name!r} names {group!r}, which is no group of tools: {meant}"
            raise Invalid(message, slug="invalid-pipeline")
    if stage.tools and not stage.role:
        message = f"stage {stage.name!r} opens tools ({', '.join(stage.tools)}), but has no role: no agent uses them."
        raise Invalid(message, slug="invalid-pipeline")


def _dependents(stages: Iterable[Stage], stage: Stage) -> frozenset[str]:
    return Pipeline(name="", stages=tuple(stages)).dependents(stage.rollback_to)


def find_cycle(edges: dict[str, tuple[str, ...]]) -> list[str]:
    """A circle in ``edges`` (node → what it needs) as the path that closes it, or an empty list."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack = [(start, iter(edges.get(start, ())))]
        path.append(start)
        while stack:
            _node, needs = stack[-1]
            following = next(needs, None)
            if following is None:
                stack.pop()
                done.add(path.pop())
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done and following in edges:
                path.append(following)
                stack.append((following, iter(edges[following])))
    return []
