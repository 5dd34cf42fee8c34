"""What every event log does."""

from __future__ import annotations

import asyncio

import pytest

from events.envelope import Recorded
from events.errors import RevisionConflict
from tests.contract.conftest import Plumbing
from tests.waiting import until


def ids(records: list[Recorded]) -> list[str]:
    return [record.envelope.id for record in records]


async def replayed(plumbing: Plumbing, **wanted: object) -> list[Recorded]:
    return [record async for batch in plumbing.log.replay(**wanted) for record in batch]  # type: ignore[arg-type]


async def test_append_answers_growing_revisions(plumbing: Plumbing) -> None:
    """A revision is the place in the tenant's one order, and the next append expects it."""
    first = await plumbing.log.append(plumbing.decision("d1"), expected=0)
    second = await plumbing.log.append(plumbing.decision("d2"), expected=first)
    other = await plumbing.log.append(plumbing.decision("d1", "r2"), expected=0)
    assert [first, second, other] == [1, 2, 3]
    assert await plumbing.log.last_sequence() == 3


async def test_append_at_an_old_revision_conflicts(plumbing: Plumbing) -> None:
    """Whoever decided on an old state is told, whether somebody else began the entity or went on with it."""
    first = await plumbing.log.append(plumbing.decision("d1"), expected=0)
    with pytest.raises(RevisionConflict):
        await plumbing.log.append(plumbing.decision("d2"), expected=0)
    await plumbing.log.append(plumbing.decision("d3"), expected=first)
    with pytest.raises(RevisionConflict):
        await plumbing.log.append(plumbing.decision("d4"), expected=first)
    assert ids(await plumbing.log.load("run", "r1")) == ["d1", "d3"]


async def test_append_at_a_revision_of_the_future_conflicts(plumbing: Plumbing) -> None:
    """A revision that the log does not have yet belongs to another log."""
    with pytest.raises(RevisionConflict):
        await plumbing.log.append(plumbing.decision("d1"), expected=7)


async def test_repeating_the_last_append_answers_its_revision(plumbing: Plumbing) -> None:
    """An append whose answer was lost can be tried again and is there once."""
    await plumbing.log.append(plumbing.decision("d0", "r0"), expected=0)
    first = await plumbing.log.append(plumbing.decision("d1"), expected=0)
    assert await plumbing.log.append(plumbing.decision("d1"), expected=0) == first
    assert await plumbing.log.append(plumbing.decision("d1"), expected=first) == first
    assert len(await plumbing.log.load("run", "r1")) == 1


async def test_repeating_an_append_that_others_followed_answers_its_revision(plumbing: Plumbing) -> None:
    """Also where somebody else has already built on it."""
    first = await plumbing.log.append(plumbing.decision("d1"), expected=0)
    second = await plumbing.log.append(plumbing.decision("d2"), expected=first)
    await plumbing.log.append(plumbing.decision("d3"), expected=second)
    assert await plumbing.log.append(plumbing.decision("d1"), expected=0) == first
    assert await plumbing.log.append(plumbing.decision("d2"), expected=first) == second
    assert ids(await plumbing.log.load("run", "r1")) == ["d1", "d2", "d3"]


async def test_a_decision_made_knowing_an_earlier_one_of_its_id_is_appended(plumbing: Plumbing) -> None:
    """The id alone does not swallow a decision: only the last message's id marks a repeat."""
    first = await plumbing.log.append(plumbing.decision("d1"), expected=0)
    second = await plumbing.log.append(plumbing.decision("d2"), expected=first)
    third = await plumbing.log.append(plumbing.decision("d1", text="once more"), expected=second)
    assert third > second
    assert ids(await plumbing.log.load("run", "r1")) == ["d1", "d2", "d1"]


async def test_the_same_decision_id_serves_several_entities(plumbing: Plumbing) -> None:
    """One command may lead to a decision in more than one entity."""
    await plumbing.log.append(plumbing.decision("d1", "r1"), expected=0)
    await plumbing.log.append(plumbing.decision("d1", "r2"), expected=0)
    await plumbing.log.append(plumbing.decision("d1", "r1", entity="task"), expected=0)
    assert await plumbing.log.last_sequence() == 3


async def test_of_racing_appends_one_wins(plumbing: Plumbing) -> None:
    """Twenty writers at one revision: one is appended, nineteen are told."""
    appends = [plumbing.log.append(plumbing.decision(f"d{number}"), expected=0) for number in range(20)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert len([result for result in results if isinstance(result, int)]) == 1
    assert len([result for result in results if isinstance(result, RevisionConflict)]) == 19
    assert len(await plumbing.log.load("run", "r1")) == 1


async def test_load_gives_one_entity_above_a_sequence(plumbing: Plumbing) -> None:
    """Loading again costs only what is new."""
    last = await plumbing.append(5)
    await plumbing.append(3, "r2")
    assert ids(await plumbing.log.load("run", "r1")) == ["d0", "d1", "d2", "d3", "d4"]
    assert ids(await plumbing.log.load("run", "r1", after=last - 2)) == ["d3", "d4"]
    assert await plumbing.log.load("run", "r1", after=last) == []
    assert await plumbing.log.load("run", "nobody") == []


async def test_load_gives_long_histories_whole(plumbing: Plumbing) -> None:
    """More than one batch of an entity arrives in order."""
    await plumbing.append(2300)
    assert ids(await plumbing.log.load("run", "r1")) == [f"d{number}" for number in range(2300)]


async def test_last_is_the_last_of_the_entity(plumbing: Plumbing) -> None:
    """The entity's own last decision, not the log's."""
    revision = await plumbing.append(3)
    await plumbing.append(1, "r2")
    last = await plumbing.log.last("run", "r1")
    assert last is not None
    assert (revision, "d2") == (last.sequence, last.envelope.id)
    assert await plumbing.log.last("run", "nobody") is None


async def test_replay_gives_ranges_and_entities(plumbing: Plumbing) -> None:
    """``after`` is excluded, ``until`` included, and only the named entities are given."""
    await plumbing.append(4, "r1", name="a")
    await plumbing.append(4, "t1", entity="task", name="b")
    await plumbing.append(2, "e1", entity="environment", name="c")
    assert [record.sequence for record in await replayed(plumbing)] == list(range(1, 11))
    assert ids(await replayed(plumbing, after=2, until=5)) == ["a2", "a3", "b0"]
    assert ids(await replayed(plumbing, entities=["task"])) == ["b0", "b1", "b2", "b3"]
    assert ids(await replayed(plumbing, entities=["task", "environment"], after=6)) == ["b2", "b3", "c0", "c1"]
    assert ids(await replayed(plumbing, entities=["task"], until=6)) == ["b0", "b1"]
    assert await replayed(plumbing, entities=["project"]) == []
    assert await replayed(plumbing, after=10) == []


async def test_replay_of_an_empty_log_ends(plumbing: Plumbing) -> None:
    """There is nothing to wait for."""
    assert await replayed(plumbing) == []
    assert await plumbing.log.last_sequence() == 0


async def test_replay_may_be_left_early(plumbing: Plumbing) -> None:
    """A reader that has seen enough goes away without harm."""
    await plumbing.append(1500)
    async for batch in plumbing.log.replay():
        assert batch[0].sequence == 1
        break
    assert len(await replayed(plumbing)) == 1500


async def test_replay_keeps_pace_with_a_slow_reader(plumbing: Plumbing) -> None:
    """More than what is fetched ahead arrives whole although the reader takes its time."""
    await asyncio.gather(*(plumbing.append(300, f"r{number}") for number in range(25)))
    seen = []
    async for batch in plumbing.log.replay():
        seen += [record.sequence for record in batch]
        await asyncio.sleep(0.01)
    assert seen == list(range(1, 7501))


async def test_follow_gives_the_past_then_the_present(plumbing: Plumbing) -> None:
    """In order, each once, over the border between what was there and what comes."""
    await plumbing.append(50, "r1")
    seen: list[Recorded] = []
    following = await plumbing.log.follow(seen.append, after=20)
    await plumbing.append(50, "r2")
    await until(lambda: len(seen) >= 80)
    assert [record.sequence for record in seen] == list(range(21, 101))
    await following.close()


async def test_follow_gives_only_the_named_entities(plumbing: Plumbing) -> None:
    """A service follows what concerns it."""
    seen: list[Recorded] = []
    following = await plumbing.log.follow(seen.append, after=0, entities=["task", "environment"])
    await plumbing.append(2, "t1", entity="task")
    await plumbing.append(2, "r1")
    await plumbing.append(1, "e1", entity="environment")
    await until(lambda: len(seen) >= 3)
    assert [record.sequence for record in seen] == [1, 2, 5]
    await following.close()


async def test_a_closed_following_hears_nothing_more(plumbing: Plumbing) -> None:
    """Closing ends the deliveries."""
    seen: list[Recorded] = []
    following = await plumbing.log.follow(seen.append, after=0)
    await plumbing.append(1, "r1")
    await until(lambda: seen)
    await following.close()
    await plumbing.append(1, "r2")
    await asyncio.sleep(0.1)
    assert len(seen) == 1


async def test_junk_is_skipped_everywhere(plumbing: Plumbing) -> None:
    """Bytes on an event subject that are no decision hinder nobody."""
    first = await plumbing.append(1)
    await plumbing.publish(f"evt.{plumbing.tenant}.run.r1", b'{"stream":"EVENTS","seq":3}')
    await plumbing.publish(f"evt.{plumbing.tenant}.run.r1", b"\xff\x00 no json")
    seen: list[Recorded] = []
    following = await plumbing.log.follow(seen.append, after=0)
    with pytest.raises(RevisionConflict):
        await plumbing.log.append(plumbing.decision("d9"), expected=first)
    await plumbing.log.append(plumbing.decision("d9"), expected=3)
    await until(lambda: len(seen) >= 2)
    assert ids(seen) == ids(await plumbing.log.load("run", "r1")) == ids(await replayed(plumbing)) == ["d0", "d9"]
    last = await plumbing.log.last("run", "r1")
    assert last is not None
    assert last.envelope.id == "d9"
    await following.close()


async def test_the_log_knows_when_it_was_made(plumbing: Plumbing) -> None:
    """A snapshot of another log can be told."""
    assert await plumbing.log.created_at() == await plumbing.log.created_at()
    assert (await plumbing.log.created_at()).tzinfo is not None


async def test_append_of_a_kind_stands_on_all_entities_of_it(plumbing: Plumbing) -> None:
    """Whoever lacks a decision about any of the kind is refused, and what others of another kind did does not count."""
    first = await plumbing.log.append(plumbing.decision("d1"), expected=0)
    second = await plumbing.log.append(plumbing.decision("d2", "r2"), expected=0)
    with pytest.raises(RevisionConflict):
        await plumbing.log.append(plumbing.decision("d3"), expected=first, of_kind=True)
    third = await plumbing.log.append(plumbing.decision("d4"), expected=second, of_kind=True)
    assert ids(await plumbing.log.load("run", "r1")) == ["d1", "d4"]
    assert third > second
