"""Pipelines as data: order, what comes after what, circles."""

from __future__ import annotations

import pytest

from events.errors import Invalid
from events.pipeline import DEVELOPMENT, MAX_STAGES, Pipeline, PullRequestGate, Stage, TestsGate, checked, find_cycle
from events.tools import GROUPS


def work(name: str, *needs: str, **of: object) -> Stage:
    return Stage(name=name, needs=needs, role="developer", **of)  # type: ignore[arg-type]


def pipeline(*stages: Stage) -> Pipeline:
    return Pipeline(name="p", stages=stages)


def refusal(*stages: Stage) -> str:
    with pytest.raises(Invalid) as caught:
        checked(pipeline(*stages))
    assert caught.value.slug == "invalid-pipeline"
    return str(caught.value)


def test_built_in_pipeline_is_a_good_one() -> None:
    """Checking it changes nothing."""
    assert checked(DEVELOPMENT) == DEVELOPMENT


def test_stages_come_after_what_they_need() -> None:
    """However they were written down."""
    ordered = checked(pipeline(work("d", "b", "c"), work("c", "a"), work("b", "a"), work("a")))
    assert [stage.name for stage in ordered.stages] == ["a", "c", "b", "d"]


def test_worker_is_the_agents_stage_that_is_looked_at() -> None:
    """Its own where it has one; none where no agent did anything."""
    stages = (
        Stage(name="allow", approval=True),
        Stage(name="work", needs=("allow",), role="developer"),
        Stage(name="test", needs=("work",), gate=TestsGate()),
        Stage(name="accept", needs=("test",), approval=True),
    )
    pipeline = checked(Pipeline(name="p", stages=stages))
    assert [pipeline.worker(stage.name) for stage in stages] == ["", "work", "work", "work"]


def test_dependents_are_those_that_need_it_through_others_too() -> None:
    """A branch beside it is none."""
    given = checked(pipeline(work("a"), work("b", "a"), work("c", "b"), work("aside")))
    assert given.dependents("a") == {"b", "c"}
    assert given.dependents("c") == frozenset()


def test_gate_needs_the_work_of_an_agent() -> None:
    """Its own, or that of a stage before it; an approval in between changes nothing."""
    checked(pipeline(work("a", gate=TestsGate())))
    checked(pipeline(work("a"), Stage(name="b", needs=("a",), approval=True), gate("c", "b")))
    assert "nothing to check" in refusal(gate("a"))
    assert "nothing to check" in refusal(Stage(name="a", approval=True), gate("b", "a"))


def gate(name: str, *needs: str) -> Stage:
    return Stage(name=name, needs=needs, gate=PullRequestGate())


def test_too_many_stages_are_refused() -> None:
    """Fifty are enough for anybody."""
    stages = [work(f"s{number}") for number in range(MAX_STAGES + 1)]
    checked(pipeline(*stages[1:]))
    assert f"1 to {MAX_STAGES}" in refusal(*stages)


def test_rolling_back_leads_to_what_came_before() -> None:
    """Also to the stage itself, but not to one beside it."""
    checked(pipeline(work("a", rollback_to="a")))
    checked(pipeline(work("a"), work("b", "a"), work("c", "b", rollback_to="a")))
    assert "does not come before it" in refusal(work("a"), work("b", rollback_to="a"))
    assert "which is no stage" in refusal(work("a", rollback_to="z"))


def test_groups_of_tools_are_known_ones_for_an_agent() -> None:
    """A wrong name is answered with the one that it is near to."""
    assert checked(pipeline(work("a", tools=("compose", "faults")))).stage("a").tools == ("compose", "faults")
    assert "did you mean 'compose'?" in refusal(work("a", tools=("composed",)))
    assert "there are compose, faults." in refusal(work("a", tools=("xyz",)))
    assert "no agent uses them" in refusal(work("a"), Stage(name="b", needs=("a",), gate=TestsGate(), tools=GROUPS))


@pytest.mark.parametrize(
    ("edges", "circle"),
    [
        ({}, []),
        ({"a": ("b",), "b": ()}, []),
        ({"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ()}, []),
        ({"a": ("a",)}, ["a", "a"]),
        ({"a": ("b",), "b": ("c",), "c": ("b",)}, ["b", "c", "b"]),
        ({"a": ("unknown",)}, []),
    ],
)
def test_circle_is_found_where_there_is_one(edges: dict[str, tuple[str, ...]], circle: list[str]) -> None:
    """As the path that closes it; a diamond is none."""
    assert find_cycle(edges) == circle
