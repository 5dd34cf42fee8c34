"""The life of a pull request: the rules by given/when/then, the handlers over the in-memory log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from events.content import Inline, Stored
from events.envelope import CommandEnvelope
from events.errors import CommandRejected, NotFound, Permanent, Transient
from events.kernel import Command, Event, replace
from events.pull_request import (
    PULL_REQUEST,
    ApprovePullRequest,
    ClosePullRequest,
    MergePullRequest,
    PullRequest,
    PullRequestApproved,
    PullRequestClosed,
    PullRequestMerged,
    PullRequestMergeRefused,
    PullRequestOpened,
    PullRequestRevised,
)
from events.task import CancelTask
from infra.clock import ManualClock
from infra.entities import Cause, EntityStore
from infra.memory import Memory
from services.environment_manager.deciders import pull_request as decider
from services.environment_manager.ports import Published
from services.environment_manager.pull_requests import PullRequestHandlers
from tests.unit.examples import NOW, Story, kinds

OPENED = PullRequestOpened(
    task_id="shop-1",
    repository_url="/repositories/shop",
    title="Mend the total",
    description="",
    base="main",
    base_commit="b0",
    head="cairn/shop-1",
    head_commit="c1",
)
REVISED = PullRequestRevised(head_commit="c2", base_commit="b0")
APPROVED = PullRequestApproved(by="ada")
MERGED = PullRequestMerged(commit="m1", by="ada")
CLOSED = PullRequestClosed(reason="not wanted")

STATES: dict[str, tuple[Event, ...]] = {
    "absent": (),
    "open": (OPENED,),
    "approved": (OPENED, APPROVED),
    "merged": (OPENED, APPROVED, MERGED),
    "closed": (OPENED, CLOSED),
}

Decide = Callable[[PullRequest], Any]


def opened(head: str) -> PullRequestOpened:
    return replace(OPENED, head_commit=head)


def reopen(state: PullRequest) -> Any:
    return decider.open_or_revise(state, opened("c2"))


def approve(state: PullRequest) -> Any:
    return decider.approve(state, ApprovePullRequest(comment="fine"), "bo")


def close(state: PullRequest) -> Any:
    return decider.close(state, ClosePullRequest(reason="late"), "bo")


def given(state: str) -> Story[PullRequest]:
    return Story(PULL_REQUEST, "shop-1").given(STATES[state])


# ---- deciders


@pytest.mark.parametrize(
    ("state", "decide", "expected"),
    [
        ("absent", reopen, (opened("c2"),)),
        ("open", reopen, (REVISED,)),
        ("approved", reopen, (REVISED,)),
        ("merged", reopen, (opened("c2"),)),
        ("closed", reopen, (opened("c2"),)),
        ("open", approve, (PullRequestApproved(by="bo", comment="fine"),)),
        ("approved", approve, ()),
        ("open", close, (PullRequestClosed(reason="late", by="bo"),)),
        ("approved", close, (PullRequestClosed(reason="late", by="bo"),)),
        ("closed", close, ()),
    ],
)
def test_what_follows(state: str, decide: Decide, expected: tuple[Event, ...]) -> None:
    """Each decision adds its event once; deciding it again adds nothing."""
    story = given(state)

    assert story.when(decide) == expected
    assert story.when(decide) == ()


@pytest.mark.parametrize("state", ["open", "approved", "merged", "closed"])
def test_the_same_commit_opens_nothing_anew(state: str) -> None:
    """A branch that was pushed again without a change leaves its pull request as it is."""
    assert given(state).when(lambda state: decider.open_or_revise(state, OPENED)) == ()


def test_a_revision_takes_the_approval_back() -> None:
    """What was approved was the earlier commit."""
    story = given("approved")

    story.when(reopen)

    assert (story.state.state, story.state.head_commit) == ("open", "c2")


@pytest.mark.parametrize(
    ("state", "decide", "slug"),
    [
        ("absent", approve, "unknown-pull-request"),
        ("absent", close, "unknown-pull-request"),
        ("absent", decider.merge, "unknown-pull-request"),
        ("merged", approve, "pull-request-merged"),
        ("closed", approve, "pull-request-closed"),
        ("merged", close, "pull-request-merged"),
        ("closed", decider.merge, "pull-request-closed"),
        ("open", decider.merge, "pull-request-not-approved"),
    ],
)
def test_what_may_not_be(state: str, decide: Decide, slug: str) -> None:
    """What the state does not allow is rejected by a name that programs can read."""
    with pytest.raises(CommandRejected, match="shop-1") as rejected:
        decide(given(state).state)
    assert rejected.value.slug == slug
    assert isinstance(rejected.value, NotFound) == (state == "absent")


def test_merging_needs_an_approval_and_happens_once() -> None:
    """An approved one may be merged, a merged one has nothing to merge, and is recorded once."""
    story = given("approved")
    assert decider.merge(story.state) == OPENED

    assert story.when(lambda state: decider.merged(state, "m1", "ada")) == (MERGED,)

    assert decider.merge(story.state) is None
    assert story.when(lambda state: decider.merged(state, "m1", "ada")) == ()
    assert story.when(lambda state: decider.refuse_merge(state, "merge-conflict", "app.py")) == ()


def test_a_refused_merge_leaves_it_approved() -> None:
    """The remote's no is said, and it can be tried again."""
    story = given("approved")

    story.when(lambda state: decider.refuse_merge(state, "merge-conflict", "app.py"))

    assert decider.merge(story.state) == OPENED


def test_a_merge_in_the_world_counts_whatever_was_decided_meanwhile() -> None:
    """Closed while it was being merged: it is merged."""
    story = given("closed")

    assert kinds(story.when(lambda state: decider.merged(state, "m1", "ada"))) == ["PullRequestMerged"]


# ---- handlers


class Remote:
    """The part of ``Workspaces`` that a merge uses; ``answer`` is a commit or what is raised."""

    def __init__(self, answer: str | Exception = "m1") -> None:
        self.answer = answer
        self.merges: list[dict[str, str]] = []

    async def merge(self, repository_url: str, *, base: str, head: str, message: str, expected: str = "") -> str:
        self.merges.append({"url": repository_url, "base": base, "head": head, "message": message, "commit": expected})
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class World:
    """Handlers over the in-memory twins; ``say`` sends a command, ``happened`` names what the log holds."""

    def __init__(self, remote: Remote) -> None:
        self.memory = Memory(clock=ManualClock())
        self.remote = remote
        self.handlers = self.another_host()

    def another_host(self) -> PullRequestHandlers:
        store = EntityStore(self.memory.log, PULL_REQUEST, ManualClock())
        return PullRequestHandlers(store, self.remote, self.memory.content)  # type: ignore[arg-type]

    async def open(self, commit: str = "c1", diff: str = "") -> None:
        published = Published(
            commit=commit,
            base_branch="main",
            base_commit="b0",
            remote="/repositories/shop",
            diff=diff,
            files_changed=1,
            lines_added=2,
            lines_removed=3,
        )
        await self.handlers.opened(
            Cause(f"open-{commit}"),
            "shop-1",
            task_id="shop-1",
            repository_url="/repositories/shop",
            title="Mend the total",
            description="",
            head="cairn/shop-1",
            published=published,
        )

    async def say(self, command: Command, handlers: PullRequestHandlers | None = None, id: str = "") -> Any:
        envelope = CommandEnvelope(
            id=id or type(command).__name__,
            tenant="default",
            entity="pull_request",
            entity_id="shop-1",
            time=NOW,
            command=command,  # type: ignore[arg-type]
            actor="ada",
        )
        return await (handlers or self.handlers).handle(envelope)

    async def happened(self) -> list[Event]:
        return [
            event for record in await self.memory.log.load("pull_request", "shop-1") for event in record.envelope.events
        ]


async def test_from_opened_to_merged() -> None:
    """Opened, approved, merged: each answers with its event, and the approved commit is what was merged."""
    world = World(Remote())
    await world.open()

    approved = await world.say(ApprovePullRequest())
    merged = await world.say(MergePullRequest())

    assert (approved.accepted, approved.events) == (True, ("PullRequestApproved",))
    assert (merged.accepted, merged.events) == (True, ("PullRequestMerged",))
    assert world.remote.merges == [
        {
            "url": "/repositories/shop",
            "base": "main",
            "head": "cairn/shop-1",
            "message": "Merge pull request shop-1: Mend the total",
            "commit": "c1",
        }
    ]
    assert (await world.happened())[-1] == MERGED


async def test_a_repeated_merge_is_not_done_again() -> None:
    """Delivered twice, merged once."""
    world = World(Remote())
    await world.open()
    await world.say(ApprovePullRequest())
    first = await world.say(MergePullRequest())

    again = await world.say(MergePullRequest(), world.another_host())

    assert (again.accepted, again.sequence, again.events) == (True, first.sequence, ())
    assert len(world.remote.merges) == 1


async def test_a_merge_that_the_remote_refuses() -> None:
    """The refusal is an event and an outcome with its reason; the same command may succeed later."""
    world = World(Remote(Permanent("app.py conflicts", slug="merge-conflict")))
    await world.open()
    await world.say(ApprovePullRequest())

    refused = await world.say(MergePullRequest())
    world.remote.answer = "m1"
    merged = await world.say(MergePullRequest())

    assert (refused.accepted, refused.slug, refused.status) == (False, "merge-conflict", 409)
    assert "app.py conflicts" in refused.message
    assert kinds(await world.happened())[-2:] == ["PullRequestMergeRefused", "PullRequestMerged"]
    assert (await world.happened())[-2] == PullRequestMergeRefused(cause="merge-conflict", detail="app.py conflicts")
    assert merged.accepted


async def test_an_unreachable_remote_records_nothing() -> None:
    """Where trying again may help, the command comes again and nothing is said."""
    world = World(Remote(Transient("away")))
    await world.open()
    await world.say(ApprovePullRequest())

    with pytest.raises(Transient):
        await world.say(MergePullRequest())
    assert kinds(await world.happened()) == ["PullRequestOpened", "PullRequestApproved"]


async def test_another_hosts_revision_is_seen() -> None:
    """A host that remembers an approval does not take it for the approval of a later commit."""
    world = World(Remote())
    await world.open("c1")
    other = world.another_host()
    await world.say(ApprovePullRequest(), other, id="first")
    await world.open("c2")

    answer = await world.say(ApprovePullRequest(), other, id="second")

    assert answer.events == ("PullRequestApproved",)


async def test_opening_again_and_revising() -> None:
    """The same commit opens once; another one revises; a long diff is kept beside the event."""
    world = World(Remote())
    await world.open("c1", diff="short")
    await world.open("c1", diff="short")
    await world.open("c2", diff="x" * 40_000)

    first, second = await world.happened()

    assert isinstance(first, PullRequestOpened)
    assert (first.diff, first.lines_added, first.lines_removed) == (Inline("short"), 2, 3)
    assert isinstance(second, PullRequestRevised)
    assert isinstance(second.diff, Stored)
    assert await world.memory.content.get(second.diff.digest) == b"x" * 40_000


async def test_close_and_other_commands() -> None:
    """Closing says so; a command for something else is rejected."""
    world = World(Remote())
    await world.open()

    closed = await world.say(ClosePullRequest(reason="late"))

    assert closed.events == ("PullRequestClosed",)
    with pytest.raises(CommandRejected) as rejected:
        await world.say(CancelTask())
    assert rejected.value.slug == "unknown-command"
