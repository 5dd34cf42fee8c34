"""Pull requests without a forge: opened when a branch is pushed, approved and closed by decision, merged by a push.

A merge is done in the world before it is recorded. A crash in between is mended by the command's redelivery: merging
again finds the merge that is there. What is merged is the commit that was approved, not what the branch became since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from events.envelope import CommandEnvelope, Outcome
from events.errors import CommandRejected, Permanent
from events.kernel import Event
from events.pull_request import (
    PULL_REQUEST,
    ApprovePullRequest,
    ClosePullRequest,
    MergePullRequest,
    PullRequest,
    PullRequestOpened,
)
from infra.entities import Cause, Decision, EntityStore
from infra.ports import ContentStore, store_content
from services.environment_manager.deciders import pull_request as decider
from services.environment_manager.ports import Published, Workspaces


class PullRequestHandlers:
    def __init__(self, pull_requests: EntityStore[PullRequest], workspaces: Workspaces, content: ContentStore) -> None:
        self._pull_requests = pull_requests
        self._workspaces = workspaces
        self._content = content

    async def handle(self, envelope: CommandEnvelope) -> Outcome:
        """Approve, merge or close. Raises ``CommandRejected`` where that may not be, ``Transient`` where a remote
        cannot be reached; a merge that the remote refuses is an event, and an outcome that is not accepted."""
        by = envelope.actor
        match envelope.command:
            case ApprovePullRequest() as approval:
                return await self._decide(envelope, lambda state: decider.approve(state, approval, by))
            case ClosePullRequest() as closing:
                return await self._decide(envelope, lambda state: decider.close(state, closing, by))
            case MergePullRequest():
                return await self._merge(envelope.entity_id, envelope)
            case command:
                message = f"{type(command).__name__} is no command for a pull request."
                raise CommandRejected(message, slug="unknown-command", status=400)

    async def opened(
        self,
        cause: Cause,
        id: str,
        *,
        task_id: str,
        repository_url: str,
        title: str,
        description: str,
        head: str,
        published: Published,
    ) -> None:
        """Branch ``head`` was pushed: open its pull request, or revise it. Idempotent."""
        event = PullRequestOpened(
            task_id=task_id,
            repository_url=repository_url,
            title=title,
            description=description,
            base=published.base_branch,
            base_commit=published.base_commit,
            head=head,
            head_commit=published.commit,
            diff=await store_content(self._content, published.diff),
            files_changed=published.files_changed,
            lines_added=published.lines_added,
            lines_removed=published.lines_removed,
        )
        await self._pull_requests.load(id)
        await self._pull_requests.decide(id, cause, lambda state: decider.open_or_revise(state, event))

    async def heads(self, id: str) -> set[str]:
        """The commits that the log knows as pushed for the pull request, from whichever host."""
        state, _ = await self._pull_requests.load(id)
        return {state.head_commit} - {""}

    async def _decide(self, envelope: CommandEnvelope, decide: Callable[[PullRequest], Sequence[Event]]) -> Outcome:
        id = envelope.entity_id
        # Any host may have decided last: what is kept here must not answer "done already" for it.
        await self._pull_requests.load(id)
        return _accepted(id, await self._pull_requests.decide(id, Cause.of(envelope), decide))

    async def _merge(self, id: str, envelope: CommandEnvelope) -> Outcome:
        state, revision = await self._pull_requests.load(id)
        opened = decider.merge(state)
        if opened is None:
            return _accepted(id, Decision(state, revision, ()))
        try:
            commit = await self._workspaces.merge(
                opened.repository_url,
                base=opened.base,
                head=opened.head,
                message=f"Merge pull request {id}: {opened.title}",
                expected=state.head_commit,
            )
        except Permanent as error:
            return await self._refused(id, envelope, error)
        return await self._decide(envelope, lambda state: decider.merged(state, commit, envelope.actor))

    async def _refused(self, id: str, envelope: CommandEnvelope, error: Permanent) -> Outcome:
        # A decision of its own: where the same command comes again, its merge may succeed.
        decision = await self._pull_requests.decide(
            id, Cause.of(envelope, "-refused"), lambda state: decider.refuse_merge(state, error.slug, str(error))
        )
        return Outcome(
            accepted=False,
            entity=PULL_REQUEST.name,
            entity_id=id,
            sequence=decision.revision,
            events=tuple(type(event).__name__ for event in decision.events),
            slug=error.slug,
            message=f"Pull request {id} was not merged: {error}",
            status=409,
        )


def _accepted(id: str, decision: Decision[PullRequest]) -> Outcome:
    return Outcome(
        accepted=True,
        entity=PULL_REQUEST.name,
        entity_id=id,
        sequence=decision.revision,
        events=tuple(type(event).__name__ for event in decision.events),
    )
