"""Who is told what: a decision and the settings in, planned deliveries out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from events.delivery import DeliverySucceeded
from events.envelope import Envelope, Recorded
from events.kernel import Event
from events.pull_request import PullRequestMerged, PullRequestMergeRefused
from events.task import (
    ApprovalRequested,
    QuestionAsked,
    StageApproved,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
)
from infra.settings import SettingsInvalid, Webhook
from services.notifier import policy

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def record(*events: Event, entity: str = "task", id: str = "shop-7", sequence: int = 42) -> Recorded:
    return Recorded(
        sequence, Envelope(id="decision", tenant="default", entity=entity, entity_id=id, time=NOW, events=events)
    )


def webhook(*events: str, url: str = "https://example.org/hook") -> Webhook:
    return Webhook(url=url, secret="env:SECRET", events=events)


@pytest.mark.parametrize(
    ("event", "title", "body"),
    [
        (TaskCompleted(summary="done"), "shop-7 is completed", "done"),
        (
            TaskFailed(stage="development", cause="crashed", detail="exit 1"),
            "shop-7 failed in development",
            "crashed: exit 1",
        ),
        (TaskBlocked(stage="test", cause="gate-refused"), "shop-7 is blocked in test", "gate-refused"),
        (TaskCancelled(reason="not needed"), "shop-7 was cancelled", "not needed"),
        (QuestionAsked(run_id="r", call_id="c", question="Which one?"), "shop-7 asks a question", "Which one?"),
        (ApprovalRequested(stage="deploy"), "shop-7 waits for the approval of deploy", ""),
        (PullRequestMerged(commit="abc"), "Pull request shop-7 was merged", "as abc"),
        (
            PullRequestMergeRefused(cause="conflict", detail="in a.py"),
            "Pull request shop-7 could not be merged",
            "conflict: in a.py",
        ),
    ],
)
def test_what_a_person_must_know_is_told_in_the_app(event: Event, title: str, body: str) -> None:
    """Each such event has a title and a body in plain words."""
    (planned,) = policy.plan(record(event), {})
    told = planned.event
    assert (told.rule, told.channel, told.receiver) == ("app", "in_app", "")
    assert (told.title, told.body, told.event_type) == (title, body, type(event).__name__)
    assert (told.subject_id, told.sequence, told.occurred_at) == ("shop-7", 42, NOW)


def test_what_nobody_asked_for_is_not_told() -> None:
    """Other events and events about deliveries plan nothing."""
    assert policy.plan(record(StageApproved(stage="deploy")), {"ci": webhook()}) == []
    told_for_ever = {"ci": webhook("DeliverySucceeded")}
    assert policy.plan(record(DeliverySucceeded(attempt=1), entity="delivery"), told_for_ever) == []


def test_a_webhook_hears_of_what_it_names() -> None:
    """Without a filter a webhook hears what the app shows, with one exactly that."""
    hooks = {"all": webhook(), "approvals": webhook("StageApproved", "TaskFailed")}
    completed = policy.plan(record(TaskCompleted()), hooks)
    approved = policy.plan(record(StageApproved(stage="deploy")), hooks)
    assert [item.event.receiver for item in completed] == ["", "all"]
    assert [(item.event.receiver, item.event.title) for item in approved] == [
        ("approvals", "task shop-7: StageApproved")
    ]


def test_ids_follow_from_event_and_rule() -> None:
    """Planning again gives the same ids; another event, place in the decision or rule gives another one."""
    hooks = {"a": webhook(), "b": webhook()}
    twice = (TaskCompleted(), TaskCompleted())
    ids = [item.id for item in policy.plan(record(*twice), hooks)]
    assert ids == [item.id for item in policy.plan(record(*twice), hooks)]
    assert len({*ids, *(item.id for item in policy.plan(record(*twice, sequence=43), hooks))}) == 12
    assert all(len(id) == 24 for id in ids)


def test_a_long_text_is_cut() -> None:
    """A body has a limit, and shows that it was cut."""
    (planned,) = policy.plan(record(TaskCompleted(summary="x" * 5000)), {})
    assert (len(planned.event.body), planned.event.body[-1]) == (policy.BODY_CHARACTERS, "…")


def test_only_entities_that_matter_are_followed() -> None:
    """Runs are followed only where a webhook asks for more than the app shows, deliveries never."""
    assert policy.entities({"a": webhook(), "b": webhook("TaskFailed")}) == ("task", "pull_request", "breaker")
    everything = policy.entities({"a": webhook("StageApproved")})
    assert {"task", "run", "project"} < set(everything)
    assert "delivery" not in everything


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (webhook("TaskComplete"), "no event 'TaskComplete' to be told. Did you mean TaskCompleted?"),
        (webhook("DeliverySucceeded"), "no event 'DeliverySucceeded'"),
        (webhook(url="ftp://example.org"), "webhooks.ci.url must be an http or https address"),
        (webhook(url="https://"), "must be an http or https address"),
        (webhook(url="https://example.org:port"), "must be an http or https address"),
        (webhook(url="https://someone:word@example.org"), "without a user in it"),
    ],
)
def test_settings_that_cannot_work_are_refused(hook: Webhook, message: str) -> None:
    """The message names the setting and what is wrong with it, and never shows a password."""
    with pytest.raises(SettingsInvalid, match=message) as raised:
        policy.check({"ci": hook})
    assert "word" not in str(raised.value)


def test_good_settings_pass() -> None:
    """Addresses with ports, paths and IPv6 are fine."""
    policy.check({"a": webhook("TaskFailed"), "b": webhook(url="http://[::1]:8080/x?y=z")})
