"""What holds for every history: folding never raises, batching does not matter, the wire loses nothing, and what was
decided is not decided again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.catalogue import COMMANDS, ENTITIES, EVENTS
from events.codec import decode_command, decode_event, decode_outcome, encode
from events.content import Inline
from events.conversation import AssistantTurn, Conversation, ToolResults
from events.envelope import CommandEnvelope, Envelope, Outcome, Recorded
from events.environment import EnvironmentPrepared, ToolCallCompleted, ToolCallFailed, ToolCallInterrupted
from events.errors import CommandRejected
from events.kernel import Entity, Event
from events.pipeline import Pipeline, PullRequestGate, Stage, TestsGate, checked
from events.task import (
    AnswerQuestion,
    ApproveStage,
    AskQuestion,
    CancelTask,
    RecordCheck,
    RecordRunFailed,
    RecordRunSucceeded,
    RejectStage,
)
from events.task_state import TASK, AwaitingApproval, Checking, Passed, Running, Task, Waiting
from infra.clock import SystemClock
from infra.entities import EntityStore
from infra.memory.plumbing import Memory
from services.environment_manager.deciders import environment as environment_decider
from services.scheduler.deciders import task as task_decider
from tests.unit import examples
from tests.unit.strategies import TIMES, WORDS, events_of, of, struct

EVERY_ENTITY = pytest.mark.parametrize("name", sorted(ENTITIES))
# The strategies of large structs are slow to begin with; what is tested is not.
THOROUGH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ---- folding


@EVERY_ENTITY
@THOROUGH
@given(data=st.data())
def test_evolve_is_total(name: str, data: st.DataObject) -> None:
    """Whatever stands in the log, in whatever order, makes a state, and the state has a status."""
    entity = ENTITIES[name]
    history = data.draw(st.lists(events_of(name), max_size=12))
    state = entity.fold("shop-1", history)
    assert state.id == "shop-1"
    assert isinstance(getattr(state, "status", ""), str)


@EVERY_ENTITY
@THOROUGH
@given(data=st.data())
def test_event_of_another_entity_changes_nothing(name: str, data: st.DataObject) -> None:
    """A fold may be fed with a whole log."""
    other = data.draw(st.sampled_from(sorted(set(ENTITIES) - {name})))
    entity, event = ENTITIES[name], data.draw(events_of(other))
    state = entity.initial("shop-1")
    assert entity.evolve(state, event) is state


@EVERY_ENTITY
@THOROUGH
@given(data=st.data())
def test_fold_does_not_depend_on_batches(name: str, data: st.DataObject) -> None:
    """Read in pieces, with pieces read twice, the same history makes the same state."""
    entity = ENTITIES[name]
    decisions = data.draw(st.lists(st.lists(events_of(name), min_size=1, max_size=3), max_size=6))
    records = [recorded(number, name, events) for number, events in enumerate(decisions, 1)]
    store: EntityStore[Any] = EntityStore(Memory().log, entity, SystemClock())
    for begin, end in sorted(data.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=4))):
        known = store.peek("shop-1")
        store.apply("shop-1", records[min(begin, known[1] if known else 0) : end])
    state, revision = store.apply("shop-1", records)
    assert state == entity.fold("shop-1", [event for events in decisions for event in events])
    assert revision == len(records)


def recorded(sequence: int, entity: str, events: Sequence[Event]) -> Recorded:
    envelope = Envelope(
        id=f"d{sequence}",
        tenant="default",
        entity=entity,
        entity_id="shop-1",
        time=examples.NOW,
        events=tuple(events),
    )
    return Recorded(sequence, envelope)


@THOROUGH
@given(data=st.data())
def test_conversation_never_leaves_a_call_without_its_result(data: st.DataObject) -> None:
    """Whatever happens in whatever order: between two turns stand the results of all the calls of the first."""
    conversation = Conversation()
    ends = [struct(kind) for kind in (ToolCallCompleted, ToolCallFailed, ToolCallInterrupted)]
    for event in data.draw(st.lists(st.one_of([events_of("run"), *ends]), max_size=25)):
        conversation.apply(event)
    conversation.close_open_calls()
    messages = conversation.messages
    for position, message in enumerate(messages):
        if isinstance(message, AssistantTurn) and message.calls:
            results = messages[position + 1]
            assert isinstance(results, ToolResults)
            assert [item.call_id for item in results.results] == [call.call_id for call in message.calls]


# ---- the wire


@pytest.mark.parametrize("name", sorted(EVENTS))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_event_survives_the_wire(name: str, data: st.DataObject) -> None:
    """Encoded and decoded it is equal."""
    envelope = Envelope(
        id=data.draw(WORDS),
        tenant="default",
        entity="task",
        entity_id="shop-1",
        time=data.draw(TIMES),
        events=(data.draw(struct(EVENTS[name])),),
    )
    assert decode_event(encode(envelope)) == envelope


@pytest.mark.parametrize("name", sorted(COMMANDS))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_command_survives_the_wire(name: str, data: st.DataObject) -> None:
    """Encoded and decoded it is equal."""
    envelope = CommandEnvelope(
        id=data.draw(WORDS),
        tenant="default",
        entity="task",
        entity_id="shop-1",
        time=data.draw(TIMES),
        command=data.draw(struct(COMMANDS[name])),
        reply=data.draw(WORDS),
    )
    assert decode_command(encode(envelope)) == envelope


@THOROUGH
@given(outcome=of(Outcome))
def test_outcome_survives_the_wire(outcome: Outcome) -> None:
    """Encoded and decoded it is equal."""
    assert decode_outcome(encode(outcome)) == outcome


# ---- deciding


PIPELINE = checked(
    Pipeline(
        name="everything",
        stages=(
            Stage(name="allow", approval=True),
            Stage(name="plan", needs=("allow",), role="architect"),
            Stage(name="api", needs=("plan",), role="developer", gate=TestsGate(), rollback_to="plan"),
            Stage(name="page", needs=("plan",), role="developer", approval=True),
            Stage(name="join", needs=("api", "page"), role="developer", gate=TestsGate(command="make")),
            Stage(name="publish", needs=("join",), gate=PullRequestGate(), rollback_to="join", rollback_limit=1),
        ),
    )
)
STAGES = [stage.name for stage in PIPELINE.stages]
Step = tuple[str, int, bool | None]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "succeed", "fail", "check", "approve", "reject", "ask", "answer", "cancel", "retry"]),
        st.integers(0, len(STAGES) - 1),
        st.sampled_from([True, True, False, None]),
    ),
    max_size=40,
)


def decision(task: Task, step: Step) -> Callable[[Task], Sequence[Event]]:
    """What a step says about the stage it names, by the run or check that the stage has at that moment."""
    kind, number, yes = step
    stage = STAGES[number]
    position = task.stages[stage].position
    run = position.run_id if isinstance(position, Running) else "another-run"
    check = position.check_id if isinstance(position, Checking) else "another-check"
    match kind:
        case "start":
            return lambda task: task_decider.start_stage(task, examples.start(stage), prompt="p")
        case "succeed":
            succeeded = RecordRunSucceeded(stage=stage, run_id=run, result=examples.RESULT)
            return lambda task: task_decider.record_run_succeeded(task, succeeded)
        case "fail":
            failed = RecordRunFailed(stage=stage, run_id=run, cause="crashed", detail="", retryable=bool(yes))
            return lambda task: task_decider.record_run_failed(
                task, failed, now=examples.NOW, retries=task_decider.Retries()
            )
        case "check":
            answered = RecordCheck(stage=stage, check_id=check, passed=yes, summary="said")
            return lambda task: task_decider.record_check(task, answered)
        case "approve":
            return lambda task: task_decider.approve(task, ApproveStage(stage=stage), by="ada")
        case "reject":
            return lambda task: task_decider.reject(task, RejectStage(stage=stage, reason="no"), by="ada")
        case "ask":
            asked = AskQuestion(run_id=run, call_id=f"{run}-c1", question="?")
            return lambda task: task_decider.ask(task, asked)
        case "answer":
            return lambda task: task_decider.answer(task, AnswerQuestion(answer="yes"))
        case "cancel":
            return lambda task: task_decider.cancel(task, CancelTask())
        case _:
            return task_decider.retry


def submitted() -> Task:
    task = TASK.initial("shop-1")
    project = examples.settings(pipeline=PIPELINE)
    return TASK.fold_onto(
        task, task_decider.submit(task, examples.submit(), number=1, submission_id="s1", project=project)
    )


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_deciding_a_command_again_adds_nothing(steps: list[Step]) -> None:
    """Every command of a task, in every state that commands lead to; a rejection adds nothing either."""
    task = submitted()
    for step in steps:
        decide = decision(task, step)
        try:
            task = TASK.fold_onto(task, decide(task))
            assert tuple(decide(task)) == ()
        except CommandRejected:
            continue


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_task_never_comes_to_a_stand(steps: list[Step]) -> None:
    """At any time it has ended, or somebody is named who moves it: an agent to be placed, a run, a check, a person.

    And what it asks others for is exactly what its stages wait for.
    """
    task = submitted()
    for step in steps:
        try:
            task = TASK.fold_onto(task, decision(task, step)(task))
        except CommandRejected:
            continue
        positions = {name: state.position for name, state in task.stages.items()}
        asked_for = {position.run_id for position in positions.values() if isinstance(position, Running)} | {
            position.check_id for position in positions.values() if isinstance(position, Checking)
        }
        assert set(task.requests) == asked_for
        if task.ended is None:
            assert asked_for or any(
                isinstance(position, AwaitingApproval)
                or (isinstance(position, Waiting) and any(stage.name == name for stage in task.ready_stages()))
                for name, position in positions.items()
            )
            assert all(stage.role for stage in task.ready_stages())
            assert not all(isinstance(position, Passed) for position in positions.values())


CALLS = st.sampled_from(["c1", "c2", "c3"])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_environment_says_nothing_twice(data: st.DataObject) -> None:
    """Starts, ends, abandonments, pushes, preparation and removal."""
    entity: Entity[Any] = ENTITIES["environment"]
    state = entity.initial("shop-1-development")
    prepared = data.draw(struct(EnvironmentPrepared))
    for _ in range(12):
        started = examples.started_call(data.draw(CALLS))
        ended = ToolCallCompleted(call_id=data.draw(CALLS), run_id="r", tool="t", duration_ms=0, content=Inline(""))
        decide = data.draw(
            st.sampled_from(
                [
                    lambda state: environment_decider.prepare(state, prepared),
                    lambda state, started=started: environment_decider.start_call(state, started),
                    lambda state, started=started: environment_decider.abandon_call(state, started),
                    lambda state, ended=ended: environment_decider.end_call(state, ended),
                    lambda state: environment_decider.remove(state, "done"),
                ]
            )
        )
        state = entity.fold_onto(state, decide(state))
        assert decide(state) == ()
        assert not set(state.running) & set(state.ended)
