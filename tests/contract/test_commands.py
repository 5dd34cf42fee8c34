"""What every command bus and every command source does."""

from __future__ import annotations

import asyncio
import time

from events import subjects
from events.codec import decode_command
from events.envelope import Outcome
from infra.ports import Delivered
from tests.contract.conftest import Plumbing
from tests.waiting import until


def ids(taken: list[Delivered]) -> list[str]:
    return [decode_command(delivered.data).id for delivered in taken]


async def test_a_command_is_taken_once(plumbing: Plumbing) -> None:
    """Of two processes one gets it; one that was acknowledged or terminated does not come again."""
    taken: list[Delivered] = []
    first = await plumbing.take(taken.append, lease_seconds=2.0)
    second = await plumbing.take(taken.append, lease_seconds=2.0)
    await plumbing.send("c1", "c2", "c3")
    await until(lambda: len(taken) == 3)
    await taken[0].ack()
    await taken[1].ack()
    await taken[2].terminate()
    await asyncio.sleep(2.5)
    assert sorted(ids(taken)) == ["c1", "c2", "c3"]
    await first.close()
    await second.close()


async def test_a_command_waits_for_a_taker(plumbing: Plumbing) -> None:
    """What was sent while nobody was there is taken in order later."""
    await plumbing.send("c1", "c2", "c3")
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append)
    await until(lambda: len(taken) == 3)
    assert ids(taken) == ["c1", "c2", "c3"]
    assert [delivered.deliveries for delivered in taken] == [1, 1, 1]
    await following.close()


async def test_a_cast_command_arrives(plumbing: Plumbing) -> None:
    """A cast is not waited for, but it arrives."""
    taken: list[Delivered] = []
    following = await plumbing.source.subscribe(
        f"{plumbing.tenant}-calls",
        subjects.CALLS,
        [f"cmd.{plumbing.tenant}.{subjects.ENVIRONMENT_MANAGER}.here.call.*"],
        taken.append,
        lease_seconds=5,
        capacity=lambda: 10,
    )
    plumbing.commands.cast(subjects.ENVIRONMENT_MANAGER, "here", plumbing.command("c1", entity="call"))
    await until(lambda: taken)
    assert ids(taken) == ["c1"]
    await following.close()


async def test_a_repeated_send_is_sent_once(plumbing: Plumbing) -> None:
    """The envelope's id marks a repeat."""
    await plumbing.send("c1", "c1", "c2")
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append)
    await until(lambda: len(taken) >= 2)
    assert ids(taken) == ["c1", "c2"]
    await following.close()


async def test_a_run_has_one_open_job(plumbing: Plumbing) -> None:
    """A second job of the same run is refused until the first is settled; other runs are free."""
    bus = plumbing.commands
    assert await bus.send(subjects.AGENT_RUNNER, "any", plumbing.command("s1", "r1", entity="run"))
    assert not await bus.send(subjects.AGENT_RUNNER, "any", plumbing.command("s2", "r1", entity="run"))
    assert await bus.send(subjects.AGENT_RUNNER, "any", plumbing.command("s3", "r2", entity="run"))
    taken: list[Delivered] = []
    following = await plumbing.source.subscribe(
        f"{plumbing.tenant}-runs",
        subjects.RUNS,
        [f"cmd.{plumbing.tenant}.{subjects.AGENT_RUNNER}.any.run.*"],
        taken.append,
        lease_seconds=5,
        capacity=lambda: 10,
    )
    await until(lambda: len(taken) == 2)
    assert not await bus.send(subjects.AGENT_RUNNER, "any", plumbing.command("s4", "r1", entity="run"))
    await taken[0].ack()
    await until(lambda: bus.send(subjects.AGENT_RUNNER, "any", plumbing.command("s4", "r1", entity="run")))
    await until(lambda: len(taken) == 3)
    assert ids(taken)[2] == "s4"
    await following.close()


async def test_an_unsettled_command_comes_again_after_its_lease(plumbing: Plumbing) -> None:
    """Whoever died holding it does not keep it."""
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append, lease_seconds=1.0)
    await plumbing.send("c1")
    await until(lambda: len(taken) >= 2)
    assert [delivered.deliveries for delivered in taken[:2]] == [1, 2]
    await taken[1].ack()
    await following.close()


async def test_an_extended_command_stays(plumbing: Plumbing) -> None:
    """Showing life keeps the lease."""
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append, lease_seconds=2.0)
    await plumbing.send("c1")
    await until(lambda: taken)
    for _ in range(5):
        await asyncio.sleep(0.5)
        await taken[0].extend()
    assert len(taken) == 1
    await taken[0].ack()
    await following.close()


async def test_nak_gives_back_at_once_or_later(plumbing: Plumbing) -> None:
    """Without a delay the command comes again at once, with one not before."""
    taken: list[tuple[float, Delivered]] = []
    following = await plumbing.take(lambda delivered: taken.append((time.monotonic(), delivered)), lease_seconds=30)
    await plumbing.send("c1")
    await until(lambda: taken)
    await taken[0][1].nak()
    await until(lambda: len(taken) == 2)
    began = time.monotonic()
    await taken[1][1].nak(0.5)
    await until(lambda: len(taken) == 3)
    assert taken[2][0] - began >= 0.45
    await taken[2][1].ack()
    await following.close()


async def test_a_successor_gives_back_what_a_dead_process_held(plumbing: Plumbing) -> None:
    """With the token alone, long before the lease is over."""
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append, lease_seconds=30)
    await plumbing.send("c1")
    await until(lambda: taken)
    await plumbing.source.give_back(taken[0].token)
    await until(lambda: len(taken) == 2)
    await taken[1].ack()
    await asyncio.sleep(0.05)
    await plumbing.source.give_back(taken[0].token)
    await asyncio.sleep(0.2)
    assert len(taken) == 2
    await following.close()


async def test_no_more_are_taken_than_fit(plumbing: Plumbing) -> None:
    """The rest waits until something is settled."""
    taken: list[Delivered] = []
    settled: list[Delivered] = []
    following = await plumbing.source.subscribe(
        f"{plumbing.tenant}-taker",
        subjects.COMMANDS,
        plumbing.filters,
        taken.append,
        lease_seconds=30,
        capacity=lambda: 2 - len(taken) + len(settled),
    )
    await plumbing.send("c1", "c2", "c3", "c4", "c5")
    await until(lambda: len(taken) == 2)
    await asyncio.sleep(0.1)
    assert len(taken) == 2
    while len(settled) < 5:
        await until(lambda: len(taken) > len(settled))
        await taken[len(settled)].ack()
        settled.append(taken[len(settled)])
    assert ids(taken) == ["c1", "c2", "c3", "c4", "c5"]
    await following.close()


async def test_who_stops_taking_leaves_commands_to_others(plumbing: Plumbing) -> None:
    """A closed subscription holds nothing back."""
    gone: list[Delivered] = []
    await (await plumbing.take(gone.append, lease_seconds=30)).close()
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append, lease_seconds=30)
    await plumbing.send("c1", "c2")
    await until(lambda: len(taken) == 2)
    assert gone == []
    await following.close()


async def test_ask_answers_the_outcome(plumbing: Plumbing) -> None:
    """Whoever handles the command replies to whoever asked."""
    outcome = Outcome(accepted=True, entity="environment", entity_id="e1", sequence=7, events=("EnvironmentPrepared",))
    taken: list[Delivered] = []

    def take(delivered: Delivered) -> None:
        taken.append(delivered)
        plumbing.commands.reply(decode_command(delivered.data), outcome)

    following = await plumbing.take(take)
    service = subjects.ENVIRONMENT_MANAGER
    answer = await plumbing.commands.ask(service, "here", plumbing.command("c1"), timeout_seconds=5)
    assert answer == outcome
    await taken[0].ack()
    await following.close()


async def test_ask_answers_nothing_where_nobody_replies_in_time(plumbing: Plumbing) -> None:
    """The command stays sent."""
    service = subjects.ENVIRONMENT_MANAGER
    assert await plumbing.commands.ask(service, "here", plumbing.command("c1"), timeout_seconds=0.2) is None
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append)
    await until(lambda: taken)
    assert ids(taken) == ["c1"]
    await following.close()


async def test_a_reply_to_nobody_does_no_harm(plumbing: Plumbing) -> None:
    """Neither where nobody asked nor where the reply subject is not an inbox."""
    outcome = Outcome(accepted=True, entity="environment", entity_id="e1")
    plumbing.commands.reply(plumbing.command("c1"), outcome)
    forged = decode_command(
        b'{"id":"x","tenant":"t","entity":"environment","entity_id":"e1","time":"2026-01-01T00:00:00Z",'
        b'"command":{"type":"InterruptCall","call_id":"c","reason":"r"},"reply":"evt.%b.run.r1"}'
        % plumbing.tenant.encode()
    )
    plumbing.commands.reply(forged, outcome)
    await asyncio.sleep(0.05)
    assert await plumbing.log.last_sequence() == 0
