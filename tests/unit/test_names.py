"""Ids are built from names that may hold what they are joined with, and belong to one thing all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from events import names, subjects
from infra.docker import labels
from services.environment_manager.adapters.repositories import checkpoint_ref
from services.environment_manager.adapters.workspaces import GitWorkspaces

# Few letters, and what ids are joined with: names that could be taken for one another are found soon.
NAMES = st.from_regex(r"[aAbc][ab12_-]{0,8}", fullmatch=True)
NUMBERS = st.integers(1, 12)
Stage = tuple[str, int, str]
STAGES: st.SearchStrategy[Stage] = st.tuples(NAMES, NUMBERS, NAMES)


def environment(stage: Stage) -> str:
    prefix, number, name = stage
    return names.environment_id(names.task_id(prefix, number), name)


def same(one: Stage, other: Stage) -> bool:
    return (one[0].lower(), one[1], one[2].lower()) == (other[0].lower(), other[1], other[2].lower())


@settings(deadline=None)
@given(STAGES, STAGES, NUMBERS, NUMBERS)
@example(("a", 1, "b-2-c"), ("a-1-b", 2, "c"), 1, 1)
@example(("a", 1, "b-2-c"), ("A-1-B", 2, "C"), 1, 1)
@example(("a", 1, "b-1"), ("a", 1, "b"), 1, 11)
@example(("a", 11, "b"), ("a-1", 1, "b"), 1, 1)
def test_ids_belong_to_one_thing(one: Stage, other: Stage, attempt: int, again: int) -> None:
    """Two stages have one environment's id, whatever their case, only where they are the same stage of the same task;
    the same holds for tasks, runs and checks. Where prefixes would clash there is only one of the projects."""
    if one[0].lower() != other[0].lower() and names.prefixes_clash(one[0], other[0]):
        return
    assert (environment(one).lower() == environment(other).lower()) == same(one, other)
    tasks = [names.task_id(prefix, number).lower() for prefix, number, _ in (one, other)]
    assert (tasks[0] == tasks[1]) == (one[0].lower() == other[0].lower() and one[1] == other[1])
    for id in (names.run_id, names.check_id):
        first, second = id(tasks[0], one[2], attempt), id(tasks[1], other[2], again)
        assert (first.lower() == second.lower()) == (same(one, other) and attempt == again)


@settings(deadline=None)
@given(st.sets(STAGES.map(environment) | NAMES, min_size=2, max_size=20))
def test_environments_share_no_name(ids: set[str]) -> None:
    """Folder, lock, ref, subject, container and composed system of each are its own, in each installation."""
    workspaces = GitWorkspaces(Path("/home-of-it"))
    folders = {workspaces.directory(id) for id in ids} | {workspaces._lock_path(id) for id in ids}
    assert len(folders) == 2 * len(ids)
    refs = sorted(checkpoint_ref(id) for id in ids)
    assert len(set(refs)) == len(ids)
    assert not any(longer.startswith(f"{ref}/") for ref in refs for longer in refs)
    assert len({subjects.event("default", "environment", id) for id in ids}) == len(ids)
    for named in (labels.compose_project, labels.sandbox_name):
        assert len({named(id, home).lower() for id in ids for home in ("one", "two")}) == 2 * len(ids)
    systems = {labels.compose_project(id, "one") for id in ids}
    assert not systems & {labels.sandbox_name(id, "one") for id in ids}


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("shop", "shop", True),
        ("shop", "Shop", True),
        ("shop", "shop-2-web", True),
        ("SHOP-12-w", "shop", True),
        ("shop", "shop-2", False),
        ("shop", "shop-web", False),
        ("shop", "shop-2-2", False),
        ("shop", "workshop-2-web", False),
    ],
)
def test_prefixes_that_clash(one: str, other: str, clash: bool) -> None:
    """Equal ones, and those that begin as the ids of the other's stages."""
    assert names.prefixes_clash(one, other) == names.prefixes_clash(other, one) == clash
