"""When a breaker opens, who probes, and what closes it."""

from __future__ import annotations

from datetime import timedelta

from events.agents import ModelAgent, ProgramAgent
from events.breaker import (
    BREAKER,
    Breaker,
    RecordProviderAnswer,
    RecordProviderFault,
    RequestProbe,
    credential_of,
)
from services.scheduler.deciders import breaker as decider
from tests.unit.examples import AGENT, NOW, Story

LATER = NOW + timedelta(seconds=301)


def story() -> Story[Breaker]:
    return Story(BREAKER, "credential-1")


def kinds(events: tuple[object, ...]) -> list[str]:
    return [type(event).__name__ for event in events]


def flinch(
    given: Story[Breaker], run: str, number: int = 1, retry_after: float = 0.0, later: bool = False
) -> list[str]:
    command = RecordProviderFault(
        credential="the key",
        run_id=run,
        fault_id=f"{run}-0-{number}",
        cause="rate-limited",
        detail="too many requests",
        retry_after_seconds=retry_after,
    )
    now = LATER if later else NOW
    events = given.when(lambda state: decider.record_fault(state, command, now=now, failures=3, open_seconds=300.0))
    assert decider.record_fault(given.state, command, now=now, failures=3, open_seconds=300.0) == ()
    return kinds(events)


def answer(given: Story[Breaker], run: str) -> list[str]:
    return kinds(given.when(lambda state: decider.record_answer(state, RecordProviderAnswer(run_id=run))))


def probe(given: Story[Breaker], run: str, *, is_probing: bool = True, later: bool = True) -> list[str]:
    now = LATER if later else NOW
    return kinds(
        given.when(lambda state: decider.request_probe(state, RequestProbe(run_id=run), now=now, is_probing=is_probing))
    )


def opened() -> Story[Breaker]:
    given = story()
    for run in ("a", "b", "c"):
        flinch(given, run)
    return given


def test_three_failures_in_a_row_open_it() -> None:
    """Of whichever runs; until then it lets everybody through."""
    given = story()
    assert flinch(given, "a") == ["ProviderFaultCounted"]
    assert flinch(given, "b") == ["ProviderFaultCounted"]
    assert given.state.lets("d")
    assert flinch(given, "a", 2) == ["ProviderFaultCounted", "BreakerOpened"]
    assert given.state.until == NOW + timedelta(seconds=300)
    assert not given.state.lets("a")


def test_a_failure_told_twice_counts_once() -> None:
    """However often, also after the row has ended: three reports of one failure open nothing."""
    given = story()
    flinch(given, "a")
    assert flinch(given, "a") == []
    answer(given, "a")
    assert flinch(given, "a") == []
    assert given.state.faults == ()


def test_an_answer_ends_the_row() -> None:
    """Of any run; where nothing failed it says nothing."""
    given = story()
    assert answer(given, "x") == []
    flinch(given, "a")
    flinch(given, "b")
    assert answer(given, "x") == ["FaultsForgotten"]
    assert flinch(given, "a", 2) == ["ProviderFaultCounted"]
    assert given.state.status == "closed"


def test_provider_that_asks_for_longer_is_left_alone_for_longer() -> None:
    """Retry-After is a floor."""
    given = story()
    flinch(given, "a")
    flinch(given, "b")
    flinch(given, "c", retry_after=1000.0)
    assert given.state.until == NOW + timedelta(seconds=1000)


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    """Neither its failures nor its answers."""
    given = opened()
    assert flinch(given, "d") == []
    assert answer(given, "e") == []
    assert given.state.status == "open"


def test_one_probe_at_a_time_once_the_time_is_over() -> None:
    """Not before, and nobody else while it is under way."""
    given = opened()
    assert probe(given, "a", later=False) == []
    assert probe(given, "a") == ["ProbeStarted"]
    assert probe(given, "a") == []
    assert probe(given, "b") == []
    assert [given.state.lets(run) for run in ("a", "b")] == [True, False]


def test_probe_that_is_gone_makes_room_for_another() -> None:
    """Its run has ended without a word."""
    given = opened()
    probe(given, "a")
    assert probe(given, "b", is_probing=False) == ["ProbeStarted"]
    assert given.state.probe == "b"


def test_probe_decides() -> None:
    """Its failure opens the breaker again, for another one to try; its answer closes it for all."""
    given = opened()
    probe(given, "a")
    assert flinch(given, "b", 2, later=True) == []
    assert flinch(given, "a", 2, later=True) == ["ProbeFailed"]
    assert (given.state.status, given.state.until) == ("open", LATER + timedelta(seconds=300))
    assert probe(given, "b") == []
    given.state = BREAKER.evolve(given.state, decider.ProbeStarted(run_id="b"))
    assert answer(given, "a") == []
    assert answer(given, "b") == ["BreakerClosed"]
    assert given.state.lets("anybody")
    assert flinch(given, "c", 2) == ["ProviderFaultCounted"]


def test_reasons_name_the_credential_and_what_it_failed_with() -> None:
    """And until when, or who tries; nothing where somebody may."""
    given = opened()
    assert "the key failed 3 times in a row, with rate-limited" in given.state.why_not(NOW, is_probing=False)
    assert "2026-01-01 00:05:00 UTC" in given.state.why_not(NOW, is_probing=False)
    assert given.state.why_not(LATER, is_probing=False) == ""
    probe(given, "a")
    assert "a tries" in given.state.why_not(LATER, is_probing=True)


def test_credentials_are_told_apart_by_key_and_address() -> None:
    """Models of one provider with one key share a breaker; a script needs none; no password is shown."""

    def model(**of: str) -> ModelAgent:
        return ModelAgent(**{"provider": "openai", "model": "m", "key": "env:KEY", **of})  # type: ignore[arg-type]

    first = credential_of(model())
    assert first == credential_of(model(model="n"))
    others = [
        credential_of(agent)
        for agent in (model(key="env:OTHER"), model(base_url="http://me:secret@here/v1"), model(provider="anthropic"))
    ]
    assert None not in others
    assert len({first, *others}) == 4
    assert not any("secret" in found.name for found in others if found is not None)
    assert credential_of(AGENT) is None
    shared = {"TOKEN": "env:TOKEN"}
    assert credential_of(ProgramAgent(command=("a",), secrets=shared)).id == (  # type: ignore[union-attr]
        credential_of(ProgramAgent(command=("b",), secrets=shared)).id  # type: ignore[union-attr]
    )
    assert credential_of(ProgramAgent(command=("a",))) != credential_of(ProgramAgent(command=("b",)))
