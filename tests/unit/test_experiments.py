"""Experiments from the request to the verdict, over an engine in memory and in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from events.errors import CommandRejected, NotFound, Transient
from events.experiment import AbortExperiment, Experiment, FaultIntended, GuardTripped, single
from services.chaos.tolerances import Answer
from tests.unit.chaos_twins import ChaosTwin, document, fault, probe, steady, virtually
from tests.unit.examples import kinds


def finding(state: Experiment, kind: str) -> str:
    assert state.verdict is not None
    return next(str(found.text) for found in getattr(state.verdict, "findings", ()) if found.kind == kind)


def test_a_system_that_holds_completes() -> None:
    """Steady before, a fault that is undone at its end, steady after: every state is an event, in order."""

    async def story(twin: ChaosTwin) -> None:
        outcome = await twin.run(document())
        state = await twin.ended()
        assert outcome.accepted
        assert state.status == "completed"
        assert kinds(await twin.events()) == [
            "ExperimentRequested",
            "ExperimentValidated",
            "SteadyStateProbed",
            "StepBegun",
            "FaultIntended",
            "FaultInjected",
            "FaultUndone",
            "StepEnded",
            "RecoveryMeasured",
            "SteadyStateProbed",
            "ExperimentCompleted",
        ]
        begun, undone = (time for _, _, time in twin.faults.history)
        assert 9.0 < undone - begun < 12.5

    virtually(story)


def test_every_decision_says_what_led_to_it() -> None:
    """From the request to the verdict: one correlation."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=1)))
        await twin.ended()
        records = await twin.memory.log.load("experiment", "x1")
        assert {record.envelope.correlation for record in records} == {"command-1"}
        assert {record.envelope.actor for record in records[1:]} == {"chaos"}

    virtually(story)


def test_recovery_is_measured() -> None:
    """From the end of the last fault until the hypothesis holds again."""

    async def story(twin: ChaosTwin) -> None:
        def answers(now: float, holding: set[str]) -> Answer:
            return Answer(value=500, failed=True) if holding or 1 < now < 17 else Answer(value=200)

        twin.world.answers = answers
        await twin.run(document())
        state = await twin.ended()
        assert state.status == "completed"
        undone = next(time for what, _, time in twin.faults.history if what == "undo")
        assert state.recovery_seconds == pytest.approx(17 - undone, abs=0.7)
        assert "the steady state was back" in finding(state, "recovery")

    virtually(story)


def test_a_system_that_stays_broken_deviates() -> None:
    """The probe's own words are in the finding, with advice for the fault."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: (
            Answer(value=500, text="jobs 7, 9 are lost", failed=True) if now > 2 else Answer(value=200)
        )
        await twin.run(document(recovery_seconds=5))
        state = await twin.ended()
        assert state.status == "deviated"
        assert "jobs 7, 9 are lost" in finding(state, "not-steady-after")
        assert "5 s after the last fault" in finding(state, "not-steady-after")
        assert state.recovery_seconds is None

    virtually(story)


def test_samples_are_counted_all_the_while() -> None:
    """A fraction that has to hold and does not: how many, when, and what was answered."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: (
            Answer(value=503, text="no worker", failed=True) if 3 < now < 5 and holding else Answer(value=200)
        )
        watched = {**probe("status is right"), "interval_seconds": 0.5, "hold": 0.95}
        await twin.run(document(observe=[watched]))
        state = await twin.ended()
        samples = state.samples["status is right"]
        assert state.status == "deviated"
        assert (samples.count >= 18, samples.failed) == (True, 4)
        text = finding(state, "samples-failed")
        assert text.startswith(f"4 of {samples.count} samples of status is right failed between 00:00:03.")
        assert "95.0% have to hold" in text
        assert "no worker" in text

    virtually(story)


def test_samples_within_the_tolerance_are_told_and_complete() -> None:
    """What was tolerated is a finding and no deviation."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: Answer(value=503 if 3 < now < 4 else 200)
        await twin.run(document(observe=[{**probe("status"), "interval_seconds": 0.5, "hold": 0.5}]))
        state = await twin.ended()
        assert state.status == "completed"
        assert "2 of" in finding(state, "samples-tolerated")

    virtually(story)


def test_a_system_that_is_not_steady_is_refused() -> None:
    """Nothing is injected where the hypothesis does not hold before, and the reason is what the probe answered."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: Answer(value=500, text="migrating", failed=True)
        await twin.run(document())
        state = await twin.ended()
        assert state.status == "refused"
        assert state.verdict is not None
        assert state.verdict.cause == "steady-state-not-met"  # type: ignore[union-attr]
        assert "migrating" in state.verdict.detail  # type: ignore[union-attr]
        assert twin.faults.history == []

    virtually(story)


def test_a_dry_run_names_the_containers_and_touches_none() -> None:
    """Everything is checked and resolved; nothing follows."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault("drop_network", peer="database")), dry_run=True)
        await asyncio.sleep(60)
        state = await twin.state()
        assert state.status == "checked"
        assert state.validated is not None
        assert state.validated.faults[0].containers == ("worker-1", "worker-2")
        assert state.validated.faults[0].peers == ("database-1",)
        assert twin.faults.history == []

    virtually(story)


def test_a_guard_stops_everything_at_once() -> None:
    """The fault is undone the moment the guard trips, and the experiment is aborted."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: Answer(value=500 if now > 4 else 200, text="data loss")
        guard = {**probe("no data is lost"), "interval_seconds": 0.5, "failures": 2}
        await twin.run(document(fault(seconds=300), guards=[guard]))
        state = await twin.ended()
        assert state.status == "aborted"
        assert state.abort is not None
        assert state.abort.cause == "guard"
        assert any(isinstance(event, GuardTripped) for event in await twin.events())
        assert next(time for what, _, time in twin.faults.history if what == "undo") < 6.5
        assert "data loss" in finding(state, "guard")

    virtually(story)


def test_an_abort_takes_effect_at_once() -> None:
    """It does not wait for the end of the fault, and its rollbacks are performed."""

    async def story(twin: ChaosTwin) -> None:
        rollback = {
            "type": "action",
            "name": "tidy",
            "provider": {"type": "compose", "action": "start", "service": "api"},
        }
        await twin.run({**document(fault(seconds=500)), "rollbacks": [rollback]})
        await asyncio.sleep(5)
        assert twin.faults.holds() == {"x1-f0"}
        await twin.send("x1", AbortExperiment(reason="enough"))
        state = await twin.ended(seconds=5)
        assert (state.status, twin.faults.holds(), twin.world.performed) == ("aborted", set(), ["start api"])
        assert state.abort is not None
        assert (state.abort.by, state.abort.detail) == ("ada", "enough")
        with pytest.raises(NotFound):
            await twin.send("nothing", AbortExperiment())

    virtually(story)


def test_what_has_ended_cannot_be_aborted() -> None:
    """The answer says how it ended."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=1)))
        await twin.ended()
        with pytest.raises(CommandRejected, match="completed"):
            await twin.send("x1", AbortExperiment())

    virtually(story)


def test_a_repeated_command_changes_nothing() -> None:
    """The same experiment is asked for twice, as a tool call is after a restart: it runs once."""

    async def story(twin: ChaosTwin) -> None:
        first = await twin.run(document())
        second = await twin.run(document())
        await twin.ended()
        third = await twin.run(document())
        assert first.accepted
        assert second.accepted
        assert third.accepted
        assert [what for what, _, _ in twin.faults.history] == ["inject", "undo"]

    virtually(story)


def test_faults_in_the_background_overlap() -> None:
    """The next step begins as soon as the one before is injected; all are undone before the system is looked at."""

    async def story(twin: ChaosTwin) -> None:
        first = {**fault("add_latency", "api", 20, delay_milliseconds=100), "background": True}
        await twin.run(document({**first, "pauses": {"after": 2}}, fault("kill_service", "worker", 5)))
        state = await twin.ended()
        assert state.status == "completed"
        assert [(what, id) for what, id, _ in twin.faults.history] == [
            ("inject", "x1-f0"),
            ("inject", "x1-f1"),
            ("undo", "x1-f1"),
            ("undo", "x1-f0"),
        ]

    virtually(story)


def test_steps_probe_pause_and_act() -> None:
    """A probe of the method that does not hold is a deviation; an action that fails is one too."""

    async def story(twin: ChaosTwin) -> None:
        restart = {
            "type": "action",
            "name": "restart",
            "provider": {"type": "compose", "action": "restart", "service": "api"},
        }
        asked = {**probe("queue is empty", tolerance=204), "pauses": {"before": 3}}
        await twin.run(document(asked, restart))
        state = await twin.ended()
        assert state.status == "deviated"
        assert "queue is empty (step 0) did not hold: it is not 204" in finding(state, "did-not-hold")
        assert twin.world.performed == ["restart api"]
        twin.world.fails = "no such container"
        await twin.run(document(restart), id="x2")
        assert "no such container" in finding(await twin.ended("x2"), "step-failed")

    virtually(story)


def test_a_fault_that_the_engine_refuses_aborts() -> None:
    """What it said is in the verdict, and nothing is left."""

    async def story(twin: ChaosTwin) -> None:
        twin.faults.refuses = "the container is paused"
        await twin.run(document())
        state = await twin.ended()
        assert (state.status, twin.faults.holds()) == ("aborted", set())
        assert "the container is paused" in state.verdict.summary  # type: ignore[union-attr]

    virtually(story)


def test_a_stuck_fault_is_reported_and_tried_on() -> None:
    """The experiment ends without it after a while; when it is gone at last, that is in the log too."""

    async def story(twin: ChaosTwin) -> None:
        twin.faults.sticky.add("x1-f0")
        await twin.run(document(fault(seconds=2)))
        state = await twin.ended()
        assert state.status == "deviated"
        assert "its rules are still there" in finding(state, "stuck")
        twin.faults.sticky.clear()
        await asyncio.sleep(120)
        assert (await twin.state()).open_faults == {}
        assert twin.faults.records == {}

    virtually(story)


def test_no_fault_begins_while_the_log_is_away() -> None:
    """The intent must be known before the engine is touched."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document({**probe("wait"), "pauses": {"after": 5}}, fault()))
        await asyncio.sleep(3)
        twin.log.away = True
        await asyncio.sleep(30)
        assert twin.faults.history == []
        twin.log.away = False
        assert (await twin.ended()).status == "completed"

    virtually(story)


def test_undoing_goes_on_while_the_log_is_away() -> None:
    """At its end the fault is gone, whoever can write that down."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=10)))
        await asyncio.sleep(5)
        twin.log.away = True
        await asyncio.sleep(10)
        assert twin.faults.records == {}
        assert [what for what, _, _ in twin.faults.history] == ["inject", "undo"]
        twin.log.away = False
        assert (await twin.ended()).status == "completed"

    virtually(story)


def test_a_guard_trips_while_the_log_is_away() -> None:
    """The fault is undone at once; the reason is recorded when it can be."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: Answer(value=500 if now > 6 else 200)
        guard = {**probe("no data is lost"), "interval_seconds": 0.5}
        await twin.run(document(fault(seconds=300), guards=[guard]))
        await asyncio.sleep(4)
        twin.log.away = True
        await asyncio.sleep(4)
        assert twin.faults.records == {}
        twin.log.away = False
        assert (await twin.ended()).status == "aborted"

    virtually(story)


def test_an_overdue_experiment_is_aborted() -> None:
    """However long its steps would take: the deadline is in the log from the beginning."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document({**probe("wait"), "pauses": {"after": 100}}, fault(seconds=5), longest_seconds=20))
        state = await twin.ended(seconds=130)
        assert state.abort is not None
        assert (state.status, state.abort.cause) == ("aborted", "overdue")

    virtually(story)


def test_a_single_fault_is_an_experiment() -> None:
    """No hypothesis: it is injected, ends, and that is all; the intent names whom it hits and until when."""

    async def story(twin: ChaosTwin) -> None:
        import json

        raw = json.loads(single({"kind": "pause_service", "service": "worker-2", "duration_seconds": 3}))
        await twin.run(raw, call_id="call-1")
        state = await twin.ended()
        intended = next(event for event in await twin.events() if isinstance(event, FaultIntended))
        assert state.status == "completed"
        assert state.requested is not None
        assert state.requested.title == "pause_service worker-2"
        assert intended.containers == ("worker-2",)

    virtually(story)


def test_an_engine_that_is_away_delays_the_request() -> None:
    """It can be asked again: nothing is decided about an engine that nobody can see."""

    async def story(twin: ChaosTwin) -> None:
        twin.faults.away = True
        with pytest.raises(Transient):
            await twin.run(document())
        assert await twin.events() == []
        twin.faults.away = False
        await twin.run(document())
        assert (await twin.ended()).status == "completed"

    virtually(story)


def test_an_engine_that_goes_away_in_the_middle() -> None:
    """Undoing is tried until the engine is back, and the end is told only then."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = steady
        await twin.run(document(fault(seconds=5)))
        await asyncio.sleep(3)
        twin.faults.away = True
        await asyncio.sleep(60)
        assert (await twin.state()).verdict is None
        twin.faults.away = False
        state = await twin.ended()
        assert (state.status, twin.faults.records) == ("completed", {})

    virtually(story)


def test_a_pattern_that_takes_for_ever_does_not_hold() -> None:
    """Nor does it keep the service from its work."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: Answer(value=200, text="a" * 5_000 + "!")
        slow = probe("slow", tolerance={"type": "regex", "pattern": "(a+)+$"})
        await twin.run(document(slow))
        assert "took longer than 0.5 s" in finding(await twin.ended(), "did-not-hold")

    virtually(story)
