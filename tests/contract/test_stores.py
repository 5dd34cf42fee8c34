"""What every store of content, output and dead letters does."""

from __future__ import annotations

import os

import pytest

from events import subjects
from events.codec import encode
from events.content import digest_of
from events.errors import CommandRejected
from infra.ports import Delivered, OutputChunk
from tests.contract.conftest import Plumbing
from tests.waiting import until


@pytest.mark.parametrize("size", [0, 1, 40_000, 512 * 1024, 512 * 1024 + 1, 5 * 1024 * 1024])
async def test_content_comes_back_by_its_digest(plumbing: Plumbing, size: int) -> None:
    """Whatever its size, and storing it again changes nothing."""
    data = os.urandom(size)
    digest = await plumbing.content.put(data)
    assert digest == digest_of(data)
    assert await plumbing.content.put(data) == digest
    assert await plumbing.content.get(digest) == data


async def test_content_that_was_never_kept_is_none(plumbing: Plumbing) -> None:
    """A missing digest is an answer, not an error."""
    assert await plumbing.content.get(digest_of(b"nobody kept this")) is None


async def test_output_is_read_in_order_per_run(plumbing: Plumbing) -> None:
    """Chunks are binary, carry call and offset, and come above a sequence on request."""
    await plumbing.output.write("r1", "r1-c1", 0, b"\x00\xffone")
    await plumbing.output.write("r2", "r2-c1", 0, b"other")
    await plumbing.output.write("r1", "r1-c1", 5, b"two\r\n")
    await plumbing.output.write("r1", "r1-c2", 0, b"three")
    chunks = await plumbing.output.read("r1")
    assert [(chunk.call_id, chunk.offset, chunk.data) for chunk in chunks] == [
        ("r1-c1", 0, b"\x00\xffone"),
        ("r1-c1", 5, b"two\r\n"),
        ("r1-c2", 0, b"three"),
    ]
    assert await plumbing.output.read("r1", after=chunks[1].sequence) == chunks[2:]
    assert await plumbing.output.read("nobody") == []


async def test_a_longer_chunk_at_the_same_offset_is_kept(plumbing: Plumbing) -> None:
    """A restarted writer may cut the output differently; only the very same piece is a repeat."""
    await plumbing.output.write("r1", "r1-c1", 0, b"one")
    await plumbing.output.write("r1", "r1-c1", 0, b"one")
    await plumbing.output.write("r1", "r1-c1", 0, b"one two")
    assert [chunk.data for chunk in await plumbing.output.read("r1")] == [b"one", b"one two"]


async def test_output_is_read_in_pages(plumbing: Plumbing) -> None:
    """At most a thousand at once; the next page begins behind the last."""
    for number in range(1010):
        await plumbing.output.write("r1", "r1-c1", number, b"x")
    first = await plumbing.output.read("r1")
    second = await plumbing.output.read("r1", after=first[-1].sequence)
    assert [len(first), len(second)] == [1000, 10]
    assert [chunk.offset for chunk in first + second] == list(range(1010))


async def test_output_is_followed_from_the_past_on(plumbing: Plumbing) -> None:
    """What is there first, then what comes; the same chunks that a reader sees."""
    await plumbing.output.write("r1", "r1-c1", 0, b"one")
    seen: list[OutputChunk] = []
    following = await plumbing.output.follow("r1", seen.append)
    await until(lambda: seen)
    await plumbing.output.write("r2", "r2-c1", 0, b"other")
    await plumbing.output.write("r1", "r1-c1", 3, b"two")
    await until(lambda: len(seen) == 2)
    assert seen == await plumbing.output.read("r1")
    await following.close()


async def put_letter(plumbing: Plumbing, id: str, entity_id: str = "e1") -> None:
    subject = subjects.command(plumbing.tenant, subjects.ENVIRONMENT_MANAGER, "here", "environment", entity_id)
    data = encode(plumbing.command(id, entity_id))
    await plumbing.dead_letters.put(
        subjects.ENVIRONMENT_MANAGER, subject, data, reason="refused", detail="no\r\nspace – at all", deliveries=3
    )


async def test_dead_letters_are_listed_with_their_reasons(plumbing: Plumbing) -> None:
    """All that is known about them is there, in pages."""
    for id in ("c1", "c2", "c3"):
        await put_letter(plumbing, id)
    letters = await plumbing.letters(3)
    assert letters[0].data == encode(plumbing.command("c1"))
    assert (
        letters[0].service,
        letters[0].reason,
        letters[0].detail,
        letters[0].deliveries,
    ) == ("environment-manager", "refused", "no\r\nspace – at all", 3)
    assert await plumbing.dead_letters.list(limit=2) == letters[:2]
    assert await plumbing.dead_letters.list(after=letters[1].sequence) == letters[2:]
    assert await plumbing.dead_letters.get(letters[1].sequence) == letters[1]
    assert await plumbing.dead_letters.get(999_999) is None


async def test_a_dead_letter_is_sent_again_and_removed(plumbing: Plumbing) -> None:
    """The command arrives where it was, once; the letter is gone."""
    await put_letter(plumbing, "c1")
    (letter,) = await plumbing.letters(1)
    assert await plumbing.dead_letters.resend(letter.sequence) == letter
    assert await plumbing.letters(0) == []

    async def is_gone() -> bool:
        return await plumbing.dead_letters.resend(letter.sequence) is None

    await until(is_gone)  # The replica that is asked may be behind the leader.
    taken: list[Delivered] = []
    following = await plumbing.take(taken.append)
    await until(lambda: taken)
    assert [letter.data] == [delivered.data for delivered in taken]
    await following.close()


async def test_a_dead_letter_whose_queue_is_full_stays(plumbing: Plumbing) -> None:
    """A run that has an open job does not get a second one by sending a dead letter again."""
    subject = subjects.command(plumbing.tenant, subjects.AGENT_RUNNER, "any", "run", "r1")
    command = plumbing.command("s1", "r1", entity="run")
    assert await plumbing.commands.send(subjects.AGENT_RUNNER, "any", command)
    await plumbing.dead_letters.put("agent-runner", subject, encode(command), reason="x", detail="", deliveries=1)
    (letter,) = await plumbing.letters(1)
    with pytest.raises(CommandRejected):
        await plumbing.dead_letters.resend(letter.sequence)
    assert await plumbing.dead_letters.list() == [letter]
