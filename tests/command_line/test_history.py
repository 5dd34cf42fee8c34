"""``cairn logs``, ``events``, ``replay``, ``pr`` and ``dead-letters`` against a stub gateway."""

from __future__ import annotations

import json

import pytest

from tests.command_line.conftest import Run
from tests.command_line.rows import accepted, pull_request_row, run_row
from tests.command_line.stub_gateway import Answer, StubGateway, decision, frame, page, problem, stream


def chunk(id: int, text: str, offset: int = 0) -> str:
    return frame(id, {"call_id": "shop-1-development-1-c1", "offset": offset, "text": text})


END = 'event: end\ndata: {"status": "succeeded"}'


class TestLogs:
    def test_a_task_means_its_latest_run(self, run: Run, gateway: StubGateway) -> None:
        """The output of the run that was requested last is shown."""
        first = run_row("shop-1-development-1", requested_at="2026-05-01T12:00:00Z")
        second = run_row("shop-1-development-2", requested_at="2026-05-01T13:00:00Z")
        gateway.on("GET /tasks/shop-1/runs", page(first, second))
        gateway.on("GET /runs/shop-1-development-2/output/stream", stream(chunk(1, "hello\n"), END))
        result = run("logs", "shop-1")
        assert result.exit_code == 0, result.output
        assert result.stdout == "hello\n"

    def test_following_loses_and_repeats_nothing(self, run: Run, gateway: StubGateway) -> None:
        """A connection that breaks is taken up after the last chunk that was printed."""
        path = "GET /runs/shop-1-development-1/output/stream"
        gateway.on(path, stream(chunk(1, "one\n"), chunk(2, "two\n", 4), cut=True), stream(chunk(3, "three\n", 8), END))
        result = run("logs", "shop-1-development-1", "-f")
        assert result.stdout == "one\ntwo\nthree\n"
        seen = [request.last_event_id for request in gateway.requests if request.path.endswith("stream")]
        assert seen == ["", "2"]

    def test_says_what_is_not_kept_any_more(self, run: Run, gateway: StubGateway) -> None:
        """A gap in the output is told, and not mixed into it."""
        gap = 'event: truncated\ndata: {"reason": "This output is not kept any more."}'
        gateway.on("GET /runs/r/output/stream", stream(gap, chunk(5, "rest\n"), END))
        result = run("logs", "r")
        assert result.stdout == "rest\n"
        assert "not kept any more" in result.stderr

    def test_a_run_that_goes_on(self, run: Run, gateway: StubGateway) -> None:
        """Without --follow the command ends when it has shown what there is."""
        gateway.on("GET /runs/r/output/stream", stream(chunk(1, "so far\n"), END))
        result = run("logs", "r")
        assert (result.exit_code, result.stdout) == (0, "so far\n")
        assert gateway.requests[-1].query == {"follow": "false"}

    def test_an_unknown_run(self, run: Run, gateway: StubGateway) -> None:
        """What is neither a task nor a run is not found."""
        gateway.on("GET /runs/r/output/stream", problem(404, "not-found", "There is no run 'r'."))
        assert run("logs", "r").exit_code == 4


class TestEvents:
    def test_pages_are_followed(self, run: Run, gateway: StubGateway) -> None:
        """All pages are read; with --json each decision is a line."""
        submitted = {"type": "TaskSubmitted", "specification": {"title": "Mend it"}}
        gateway.on(
            "GET /events",
            page(decision(1, "task", "shop-1", submitted), following=1),
            page(decision(2, "task", "shop-1", {"type": "TaskCompleted"})),
        )
        lines = run("events", "--json").stdout.splitlines()
        assert [json.loads(line)["sequence"] for line in lines] == [1, 2]
        assert [request.query["after"] for request in gateway.requests] == ["0", "1"]

    def test_in_words(self, run: Run, gateway: StubGateway) -> None:
        """Known events are told in a sentence, unknown ones by their fields."""
        gateway.on(
            "GET /events",
            page(
                decision(1, "task", "shop-1", {"type": "TaskSubmitted", "specification": {"title": "Mend it"}}),
                decision(2, "task", "shop-1", {"type": "TaskBewitched", "by": "a witch"}),
            ),
        )
        shown = run("events").stdout
        assert "task submitted: Mend it" in shown
        assert "TaskBewitched by=a witch" in shown

    def test_selections_exclude_each_other(self, run: Run) -> None:
        """Two selections at once are a usage error."""
        assert run("events", "--task", "a", "--run", "b").exit_code == 2

    def test_of_an_experiment(self, run: Run, gateway: StubGateway) -> None:
        """Only its own decisions are asked for; one that does not exist is not found."""
        gateway.on("GET /experiments/x1", Answer({"id": "x1"}))
        gateway.on(
            "GET /events",
            page(decision(1, "experiment", "x1", {"type": "FaultUndone", "fault_id": "x1-f0", "seconds": 0.2})),
        )
        assert "x1-f0 is undone (ended)" in run("events", "--experiment", "x1").stdout
        asked = gateway.requests[-1].query
        assert (asked["entity"], asked["id"]) == ("experiment", "x1")
        assert run("events", "--experiment", "x2").exit_code == 4
        assert run("events", "--experiment", "x1", "--run", "b").exit_code == 2

    def test_an_unknown_task(self, run: Run) -> None:
        """An id that does not exist is an error, not an empty list."""
        assert run("events", "--task", "shop-9").exit_code == 4


class TestReplay:
    def test_a_run_as_it_was(self, run: Run, gateway: StubGateway) -> None:
        """The state at the moment and what led to it are shown, and nothing that came later."""
        state = {"id": "r", "last": "answer 1 of the model", "steps": 1, "input_tokens": 5, "output_tokens": 2}
        past = {
            "entity": "run",
            "id": "r",
            "sequence": 5,
            "time": "2026-05-01T12:00:00Z",
            "decisions": 2,
            "later_decisions": 3,
            "status": "running",
            "state": state,
        }
        gateway.on("GET /replay/run/r", Answer(past))
        answered = {"type": "ModelResponded", "step": 1, "text": "I look first."}
        gateway.on(
            "GET /events",
            page(
                decision(5, "run", "r", answered), decision(6, "run", "r", {"type": "RunSucceeded", "summary": "done"})
            ),
        )
        result = run("replay", "r", "--at", "5")
        assert result.exit_code == 0, result.output
        assert "answer 1 of the model" in result.stdout
        assert "3 decisions followed" in result.stdout
        assert "I look first." in result.stdout
        assert "the agent submits" not in result.stdout

    def test_before_it_began(self, run: Run, gateway: StubGateway) -> None:
        """The message of the gateway says when it began."""
        not_yet = problem(404, "not-yet", "task 'shop-1' did not exist yet at 1.")
        gateway.on("GET /replay/task/shop-1", Answer({"entity": "task"}), not_yet)
        result = run("replay", "shop-1", "--at", "1")
        assert result.exit_code == 4
        assert "did not exist yet" in result.stderr


class TestPullRequests:
    def test_diff_in_a_pipe(self, run: Run, gateway: StubGateway) -> None:
        """The diff goes out byte by byte, so that git can apply it."""
        gateway.on("GET /pull-requests/shop-1/diff", Answer(b"--- a\n+++ b\n", kind="text/plain; charset=utf-8"))
        assert run("pr", "diff", "shop-1").stdout == "--- a\n+++ b\n"

    @pytest.mark.parametrize(("state", "exit_code"), [("merged", 0), ("open", 1)])
    def test_merge_says_whether_it_was_merged(self, run: Run, gateway: StubGateway, state: str, exit_code: int) -> None:
        """A merge that the remote refused is a failure with the reason."""
        gateway.on("POST /pull-requests/shop-1/merge", Answer(accepted("shop-1", sequence=12)))
        gateway.on("GET /pull-requests/shop-1", Answer(pull_request_row(state=state, detail="a conflict in cart.py")))
        result = run("pr", "merge", "shop-1")
        assert result.exit_code == exit_code
        assert ("a conflict in cart.py" in result.stderr) == (state == "open")
        assert gateway.requests[-1].query == {"wait_for": "12"}


def test_dead_letters_are_listed_shown_and_resent(run: Run, gateway: StubGateway) -> None:
    """A dead letter can be found, read with its command, and sent again."""
    letter = {
        "sequence": 3,
        "time": "2026-05-01T12:00:00Z",
        "service": "scheduler",
        "subject": "cmd.default.scheduler.any.task.shop-1",
        "reason": "undecodable",
        "detail": "unknown command",
        "deliveries": 5,
        "command": {"type": "Dance"},
    }
    gateway.on("GET /dead-letters", page(letter))
    gateway.on("GET /dead-letters/3", Answer(letter))
    gateway.on("POST /dead-letters/3/resend", Answer({"id": "3", "outcome": "resent"}))
    assert "undecodable" in run("dead-letters", "list").stdout
    assert '"type": "Dance"' in run("dead-letters", "show", "3").stdout
    assert run("dead-letters", "resend", "3").exit_code == 0
