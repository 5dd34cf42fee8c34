"""The safety list of experiments, line by line, and what a crash of the chaos service leaves."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from events.chaos import CHAOS, HALT, HaltChaos, ResumeChaos, host_entity
from events.environment import ENVIRONMENT, EnvironmentRemoved, ToolCallInterrupted
from events.experiment import ExperimentRefused, Verdict
from events.faults import PauseService
from events.kernel import Event
from infra.entities import Cause, EntityStore
from services.chaos import policy
from services.chaos.document import parse
from services.chaos.ports import Affected, FaultRecord
from tests.simulation.loop import VirtualLoop
from tests.unit.chaos_twins import (
    ENVIRONMENT_ID,
    START,
    ChaosTwin,
    containers,
    document,
    fault,
    probe,
    virtually,
)


async def refusal(twin: ChaosTwin, raw: dict[str, Any], id: str = "x1", **fields: Any) -> tuple[str, str]:
    """Why an experiment is refused: slug and sentence, as the asker and as the log have it."""
    outcome = await twin.run(raw, id, **fields)
    refused = (await twin.events(id))[-1]
    assert not outcome.accepted
    assert isinstance(refused, ExperimentRefused)
    assert (refused.cause, refused.detail in outcome.message) == (outcome.slug, True)
    assert twin.faults.history == []
    return refused.cause, refused.detail


def single(*method: dict[str, Any]) -> dict[str, Any]:
    return {"title": "t", "method": list(method)}


def test_a_fault_without_a_duration_is_refused() -> None:
    """Also one of zero, a negative one, and one beyond what this host allows."""

    async def story(twin: ChaosTwin) -> None:
        without = fault()
        del without["provider"]["duration_seconds"]
        cause, detail = await refusal(twin, single(without))
        assert "duration_seconds" in detail
        for number, seconds in enumerate((0, -5, 601, 1e12), 2):
            cause, detail = await refusal(twin, single(fault(seconds=seconds)), id=f"x{number}")
            assert cause in ("invalid-fault", "invalid-duration")
            assert "method[0].provider" in detail

    virtually(story)


def test_too_many_faults_at_once_are_refused() -> None:
    """The limit holds for what would overlap, as far as that can be known before."""

    async def story(twin: ChaosTwin) -> None:
        three = [{**fault("kill_service", name), "background": True} for name in ("api", "worker", "database")]
        cause, detail = await refusal(twin, single(*three))
        assert cause == "too-many-faults"
        assert "chaos.faults_at_once" in detail
        assert (await twin.run(single(*[fault("kill_service", name, 1) for name in ("api", "worker")]), "x2")).accepted
        assert (await twin.ended("x2")).status == "completed"

    virtually(story, rules=policy.Rules(faults_at_once=2))


def test_the_limit_holds_for_the_whole_host() -> None:
    """What other experiments hold at the moment counts: then the fault is not begun, and its experiment aborted."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(single(fault("kill_service", "api", 60)), "x1")
        await asyncio.sleep(2)
        await twin.run(single(fault("kill_service", "worker", 60)), "x2")
        state = await twin.ended("x2")
        assert state.abort is not None
        assert "chaos.faults_at_once" in state.abort.detail
        assert twin.faults.holds() == {"x1-f0"}

    virtually(story, rules=policy.Rules(faults_at_once=1))


def test_one_fault_for_each_resource() -> None:
    """Two that overlap and would take the same of one container are refused, with both steps named."""

    async def story(twin: ChaosTwin) -> None:
        first = {**fault("pause_service", "worker-1"), "background": True}
        cause, detail = await refusal(twin, single(first, fault("kill_service", "worker")))
        assert cause == "too-many-faults"
        assert "steps 0 and 1 would both take the process of worker-1" in detail
        assert (await twin.run(single(first, fault("kill_service", "worker-2", 2)), "x2")).accepted

    virtually(story)


def test_protected_services_are_never_hit() -> None:
    """By the name of the service, of the container, or of one of several."""

    async def story(twin: ChaosTwin) -> None:
        cause, detail = await refusal(twin, single(fault("kill_service", "database")))
        assert cause == "protected"
        assert "database-1 is protected" in detail
        assert (await refusal(twin, single(fault("pause_service", "worker")), "x2"))[0] == "protected"
        assert (await twin.run(single(fault("pause_service", "worker-1", 1)), "x3")).accepted

    virtually(story, rules=policy.Rules(protected=("database", "worker-2")))


def test_a_container_that_becomes_protected_later_is_not_hit() -> None:
    """Whom a fault hits is resolved again right before; so is whether it may be."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(single({**fault("kill_service", "worker"), "pauses": {"before": 5}}))
        await asyncio.sleep(2)
        others = containers(ENVIRONMENT_ID)
        twin.faults.containers_of[ENVIRONMENT_ID] = tuple(item for item in others if item.service != "worker")
        state = await twin.ended()
        assert (state.status, twin.faults.history) == ("aborted", [])

    virtually(story)


def test_residue_is_refused() -> None:
    """A fault that nothing explains would be taken for the experiment's own doing."""

    async def story(twin: ChaosTwin) -> None:
        pause = PauseService(service="api", duration_seconds=100)
        until = START.timestamp() + 100
        twin.faults.sticky.add("old-f0")
        twin.faults.records["old-f0"] = FaultRecord(
            id="r", name="r", fault_id="old-f0", target=ENVIRONMENT_ID, fault=pause, until=until, hit="id-api-1"
        )
        assert (await refusal(twin, document()))[0] == "residue"

    virtually(story)


def test_two_experiments_do_not_disturb_each_other() -> None:
    """One with a hypothesis does not begin while another has a fault in the same environment; whoever asks is told
    which, until when, and how to end it."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(single(fault("kill_service", "worker", 20)), "x1")
        await asyncio.sleep(2)
        outcome = await twin.run(document(), "x2")
        assert (outcome.accepted, outcome.slug) == (False, "busy")
        until = START + timedelta(seconds=20)
        assert f"x1 has kill_service in {ENVIRONMENT_ID} until {until:%H:%M:%S} UTC" in outcome.message
        assert outcome.message.endswith("Try again then, or end it: cairn chaos abort x1")

    virtually(story)


def test_what_the_host_cannot_do_is_refused_with_the_reason() -> None:
    """The capability probe's own words."""

    async def story(twin: ChaosTwin) -> None:
        twin.faults.cannot["add_latency"] = "the kernel has neither netem nor nfqueue"
        cause, detail = await refusal(twin, single(fault("add_latency", "api", delay_milliseconds=5)))
        assert (cause, "neither netem nor nfqueue" in detail) == ("not-possible-here", True)

    virtually(story)


def test_only_environments_of_this_host_are_targets() -> None:
    """And Compose projects that its settings name."""

    async def story(twin: ChaosTwin) -> None:
        assert (await refusal(twin, document(), "x1", target="shop-9-test"))[0] == "target-missing"
        cause, detail = await refusal(twin, document(), "x2", target="compose:shop")
        assert (cause, "chaos.projects" in detail) == ("target-not-allowed", True)
        twin.faults.containers_of["compose:billing"] = containers("compose:billing")
        assert (await twin.run(document(fault(seconds=1)), "x3", target="compose:billing")).accepted
        asked = {**probe(), "provider": {"type": "command", "command": "true"}}
        assert (await twin.run(document(asked), "x4", target="compose:billing")).slug == "invalid-experiment"
        store = EntityStore(twin.memory.log, ENVIRONMENT, twin.clock)
        await store.load(ENVIRONMENT_ID)
        await store.decide(ENVIRONMENT_ID, Cause(id="gone"), lambda state: (EnvironmentRemoved(),))
        assert (await twin.run(document(), "x5")).slug == "target-missing"

    virtually(story, rules=policy.Rules(projects=("billing",)))


@pytest.mark.parametrize(
    "provider",
    [
        {"type": "http", "url": "http://169.254.169.254/latest/meta-data"},
        {"type": "http", "url": "http://127.0.0.1:4222/"},
        {"type": "http", "url": "http://${api:8080}@127.0.0.1:8222/varz"},
        {"type": "http", "url": "http://127.0.0.1/${api:8080}"},
        {"type": "http", "url": "http://${api:8080}.example.org/"},
        {"type": "tcp", "address": "127.0.0.1:4222"},
        {"type": "tcp", "address": "${api:8080}0"},
    ],
)
def test_agents_reach_only_their_own_system(provider: dict[str, Any]) -> None:
    """A probe in a document that an agent or a gate asks for must not make this host ask others; a person may."""

    async def story(twin: ChaosTwin) -> None:
        asked = {"type": "probe", "name": "asked", "tolerance": True, "provider": provider}
        watched: dict[str, Any] = {"observe": [asked]}
        for number, raw in enumerate((document(asked), document(probes=(asked,)), document(**watched))):
            cause, detail = await refusal(twin, raw, f"call-{number}-experiment", call_id=f"call-{number}")
            assert (cause, "${service:port}" in detail) == ("not-its-own", True)
        assert (await twin.run(document(asked), "x9")).accepted
        assert (
            await twin.run(document(fault(seconds=1)), "call-9-experiment", call_id="call-9", dry_run=True)
        ).accepted

    virtually(story)


def test_services_that_are_not_there_are_named() -> None:
    """With those that are."""

    async def story(twin: ChaosTwin) -> None:
        _, detail = await refusal(twin, single(fault("kill_service", "wroker")))
        assert "Did you mean worker?" in detail

    virtually(story)


def test_the_halt_aborts_everything_and_lets_nothing_begin() -> None:
    """It is durable: a service that was down during the halt finds it."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=300)), "x1")
        await asyncio.sleep(3)
        await twin.send(HALT, HaltChaos(reason="incident"))
        state = await twin.ended("x1", seconds=5)
        assert state.abort is not None
        assert (state.status, state.abort.cause, state.abort.by) == ("aborted", "halted", "ada")
        twin.faults.history.clear()
        cause, detail = await refusal(twin, document(), "x2")
        assert (cause, "incident" in detail) == ("halted", True)
        await twin.kill()
        await twin.start()
        assert (await refusal(twin, document(), "x3"))[0] == "halted"
        await twin.send(HALT, ResumeChaos())
        assert (await twin.run(document(fault(seconds=1)), "x4")).accepted
        assert (await twin.ended("x4")).status == "completed"

    virtually(story)


def test_a_halt_while_the_service_is_down_is_found() -> None:
    """The next process undoes what the one before had begun."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=300)))
        await asyncio.sleep(3)
        await twin.kill()
        await twin.send(HALT, HaltChaos())
        await twin.start()
        state = await twin.ended(seconds=5)
        assert (state.status, twin.faults.records) == ("aborted", {})

    virtually(story)


def test_what_the_host_can_do_is_in_the_log() -> None:
    """Some seconds after the start, and again only where it has changed."""

    async def story(twin: ChaosTwin) -> None:
        twin.faults.cannot["disk_fill"] = "no tmpfs"
        await asyncio.sleep(15)
        state = CHAOS.fold("host", await told(twin))
        assert state.capabilities is not None
        assert (state.capabilities.host, state.capabilities.faults["disk_fill"]) == ("here", "no tmpfs")
        await asyncio.sleep(2000)
        assert len(await told(twin)) == 1
        twin.faults.cannot.clear()
        await asyncio.sleep(700)
        assert len(await told(twin)) == 2

    async def told(twin: ChaosTwin) -> list[Event]:
        records = await twin.memory.log.load(CHAOS.name, host_entity("here"))
        return [event for record in records for event in record.envelope.events]

    virtually(story)


@pytest.mark.parametrize("event", ["interrupted", "removed"])
def test_nobody_waits_any_more(event: str) -> None:
    """The call that asked was interrupted, or its environment is gone: everything is undone."""

    async def story(twin: ChaosTwin) -> None:
        events: dict[str, Event] = {
            "interrupted": ToolCallInterrupted(call_id="call-1", run_id="r", tool="run_experiment", reason="cancelled"),
            "removed": EnvironmentRemoved(),
        }
        await twin.run(document(fault(seconds=300)), "call-1-experiment", call_id="call-1")
        await asyncio.sleep(3)
        store = EntityStore(twin.memory.log, ENVIRONMENT, twin.clock)
        await store.load(ENVIRONMENT_ID)
        await store.decide(ENVIRONMENT_ID, Cause(id=event), lambda state: (events[event],))
        state = await twin.ended("call-1-experiment", seconds=5)
        assert (state.status, twin.faults.records) == ("aborted", {})

    virtually(story)


def test_what_no_log_entry_explains_is_undone() -> None:
    """A record whose intent never reached the log."""

    async def story(twin: ChaosTwin) -> None:
        pause = PauseService(service="api", duration_seconds=100)
        until = START.timestamp() + 1000
        twin.faults.records["x9-f0"] = FaultRecord(
            id="r", name="r", fault_id="x9-f0", target=ENVIRONMENT_ID, fault=pause, until=until, hit="id-api-1"
        )
        await asyncio.sleep(10)
        assert twin.faults.records == {}

    virtually(story)


def test_a_restart_goes_on_without_samples_and_aborts_with_them() -> None:
    """What happened is known from the log; what was to be watched all the while was not watched."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=30)), "x1")
        await asyncio.sleep(5)
        await twin.kill()
        await asyncio.sleep(5)
        await twin.start()
        state = await twin.ended("x1")
        assert (state.status, state.resumed, len(twin.faults.history)) == ("completed", 1, 2)
        await twin.run(document(fault(seconds=30), observe=[probe("status")]), "x2")
        await asyncio.sleep(5)
        await twin.kill()
        await twin.start()
        state = await twin.ended("x2", seconds=5)
        assert state.abort is not None
        assert (state.status, state.abort.cause, twin.faults.records) == ("aborted", "unobserved", {})

    virtually(story)


def test_a_snapshot_holds_what_is_under_way(tmp_path: Path) -> None:
    """A start that reads only what came since finds the same."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=60)), "x1")
        await asyncio.sleep(5)
        await twin.keeper.stop()
        await twin.kill()
        await twin.run(document(fault(seconds=1)), "x2", target="shop-9-test")
        await twin.start()
        assert (await twin.ended("x1")).status == "completed"

    virtually(story, snapshot=tmp_path / "under-way")


class Crashed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("seed", range(40))
def test_killed_at_any_point(seed: int) -> None:
    """Before or after any append the process dies, several times, and stays down for a while. In the end there is one
    verdict, nothing is injected, every fault was injected only after its intent was in the log, and was gone at its
    end, whoever lived then."""

    async def story(twin: ChaosTwin) -> None:
        chance = random.Random(seed)
        crashes = [chance.randrange(1, 14) for _ in range(3)]
        dying = asyncio.Event()

        def maybe() -> None:
            crashes[0] -= 1
            if crashes[0] == 0:
                crashes.pop(0)
                crashes.append(10**9)
                dying.set()
                raise Crashed

        before = chance.random() < 0.5
        twin.log.before_append = maybe if before else (lambda: None)
        twin.log.after_append = (lambda: None) if before else maybe
        watched: dict[str, Any] = {"observe": [probe("status")]} if chance.random() < 0.3 else {}
        steps = [
            {**fault("kill_service", "api", 5), "background": True},
            fault("pause_service", "worker", 3),
            probe("asked"),
        ]
        raw = document(*steps, **watched)

        async def ask() -> None:
            while not (await twin.events()):
                try:
                    await twin.run(raw)
                except Crashed:
                    await asyncio.sleep(0.1)

        asking = asyncio.create_task(ask())
        async with asyncio.timeout(600):
            while (await twin.state()).verdict is None:
                tick = asyncio.create_task(asyncio.sleep(0.5))
                death = asyncio.create_task(dying.wait())
                await asyncio.wait({tick, death}, return_when=asyncio.FIRST_COMPLETED)
                if dying.is_set():
                    await twin.kill()
                    dying.clear()
                    await asyncio.sleep(chance.uniform(0, 8))
                    await begin(twin)
        await asking
        twin.log.before_append = twin.log.after_append = lambda: None
        await asyncio.sleep(30)
        state = await twin.state()
        assert state.status in ("completed", "aborted")
        assert twin.faults.records == {}
        intents = [item.intended for item in state.faults.values()]
        for what, id, time in twin.faults.history:
            intended = next(item for item in intents if item.fault_id == id)
            assert what != "undo" or START.timestamp() + time < intended.ends_at.timestamp() + 12
        assert sum(isinstance(event, Verdict) for event in await twin.events()) == 1
        assert state.resumed >= 1

    async def begin(twin: ChaosTwin) -> None:
        while True:
            try:
                await twin.start()
            except Crashed:
                await twin.runner.stop()
            else:
                return

    async def all_of_it() -> None:
        twin = ChaosTwin()
        await (await twin.stand()).start()
        await story(twin)

    VirtualLoop().finish(all_of_it())


def test_faults_that_take_different_things_may_overlap() -> None:
    """The estimate knows pauses and durations; after its end a fault is no obstacle any more."""
    target = {container.service: container for container in containers(ENVIRONMENT_ID)}
    raw = single(
        {**fault("kill_service", "api", 5), "background": True, "pauses": {"after": 6}}, fault("stop_service", "api", 5)
    )
    read = parse(json.dumps(raw))
    affected = {number: Affected(target=ENVIRONMENT_ID, hit=(target["api"],)) for number in read.faults}
    assert policy.why_clashing(read, affected, 4) == ""
    raw["method"][0]["pauses"]["after"] = 4
    assert "process of api-1" in policy.why_clashing(parse(json.dumps(raw)), affected, 4)
