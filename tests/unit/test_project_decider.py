"""Adding projects: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import pytest

from events.errors import CommandRejected, Invalid
from events.pipeline import Pipeline, Stage, TestsGate
from events.project import PROJECT, AddProject, Project, ProjectAdded, Repository
from services.scheduler.deciders import project as decider
from tests.unit.examples import Story, settings


def add(story: Story[Project], taken: tuple[str, ...] = (), **changes: object) -> tuple[object, ...]:
    command = AddProject(settings=settings(**changes))  # type: ignore[arg-type]
    return story.when(lambda project: decider.add(project, command, taken_prefixes=taken))


def test_project_is_added_once() -> None:
    """With the same settings again nothing follows."""
    story = Story(PROJECT, "shop")
    (added,) = add(story)
    assert isinstance(added, ProjectAdded)
    assert add(story) == ()
    assert story.state.settings == added.settings


def test_stages_are_put_in_order() -> None:
    """Each after what it needs; and the order they were written in makes no other project of it."""
    stages = (Stage(name="test", needs=("work",), gate=TestsGate()), Stage(name="work", role="developer"))
    story = Story(PROJECT, "shop")
    add(story, pipeline=Pipeline(name="p", stages=stages))
    assert story.state.settings is not None
    assert [stage.name for stage in story.state.settings.pipeline.stages] == ["work", "test"]
    assert add(story, pipeline=Pipeline(name="p", stages=stages)) == ()


def test_name_and_prefix_belong_to_one_project() -> None:
    """Other settings under the same name are refused, and so is another project's prefix."""
    story = Story(PROJECT, "shop")
    add(story)
    with pytest.raises(CommandRejected, match="exists already") as caught:
        add(story, test_command="make other")
    assert caught.value.slug == "project-exists"
    with pytest.raises(CommandRejected, match="choose one with --prefix") as caught:
        add(Story(PROJECT, "store"), taken=("shop",))
    assert caught.value.slug == "prefix-taken"
    with pytest.raises(CommandRejected, match="is too like 'shop-2-web', that of another project") as caught:
        add(Story(PROJECT, "shop"), taken=("other", "shop-2-web"))
    assert caught.value.slug == "prefix-taken"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("my shop", {}, "cannot name a project"),
        ("shop", {"prefix": "7-shop"}, "cannot name a prefix"),
        ("shop", {"repository": Repository(url=" ")}, "needs a repository"),
        ("shop", {"agents_at_once": 0}, "from 1 to 5"),
        ("shop", {"agents_at_once": 6}, "from 1 to 5"),
        ("shop", {"max_attempts": 0}, "from 1 to 10"),
        ("shop", {"isolation": "chroot"}, "known: container, worktree"),
        ("shop", {"pipeline": Pipeline(name="p", stages=())}, "0 stages"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, changes: dict[str, object], message: str) -> None:
    """With what to write instead."""
    with pytest.raises(Invalid, match=message):
        add(Story(PROJECT, name), **changes)
