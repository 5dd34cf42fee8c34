"""``cairn task`` and ``cairn project``: what is sent, what is shown, how it ends."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.command_line.conftest import Run
from tests.command_line.rows import accepted, run_row, task_row
from tests.command_line.stub_gateway import Answer, StubGateway, decision, frame, page, problem, stream


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "shop"
    path.mkdir()
    git = ["git", "-C", str(path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "Begin"]):
        subprocess.run([*git, *command], check=True)
    return path


class TestProjectAdd:
    def test_sends_an_absolute_path(self, run: Run, gateway: StubGateway, repository: Path) -> None:
        """A path of this host is made absolute, and every option arrives."""
        gateway.on("POST /projects", Answer(accepted("shop"), 201))
        result = run(
            *("project", "add", "shop", "--repo", str(repository / ".." / "shop"), "--test-command", "pytest -q"),
            *("--role", "developer=coder", "--secret", "TOKEN=env:TOKEN", "--base", "main"),
        )
        assert result.exit_code == 0, result.output
        body = gateway.requests[0].body
        assert body["repository"] == {"url": str(repository), "base_branch": "main"}
        assert body["roles"] == {"developer": "coder"}
        assert body["secrets"] == {"TOKEN": "env:TOKEN"}
        assert body["test_command"] == "pytest -q"

    def test_urls_go_as_they_are(self, run: Run, gateway: StubGateway) -> None:
        """What git understands as a URL is not looked at here."""
        gateway.on("POST /projects", Answer(accepted("shop"), 201))
        for url in ("https://example.org/shop.git", "git@example.org:team/shop.git"):
            assert run("project", "add", "shop", "--repo", url).exit_code == 0
            assert gateway.requests[-1].body["repository"]["url"] == url

    def test_a_path_that_does_not_exist(self, run: Run, gateway: StubGateway, tmp_path: Path) -> None:
        """It is refused here, before anything is sent."""
        result = run("project", "add", "shop", "--repo", str(tmp_path / "nothing"))
        assert result.exit_code == 2
        assert "does not exist" in result.stderr
        assert gateway.requests == []

    def test_a_directory_without_git(self, run: Run, tmp_path: Path) -> None:
        """The message says how to make it a repository."""
        result = run("project", "add", "shop", "--repo", str(tmp_path))
        assert result.exit_code == 2
        assert "is no git repository" in result.stderr
        assert "git -C" in result.stderr

    def test_a_repository_without_commits(self, run: Run, tmp_path: Path) -> None:
        """There is nothing to work on yet, and the message says so."""
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        result = run("project", "add", "shop", "--repo", str(tmp_path))
        assert result.exit_code == 2
        assert "has no commits yet" in result.stderr

    def test_a_branch_that_is_not_there(self, run: Run, repository: Path) -> None:
        """A misspelt base is found before the project exists."""
        result = run("project", "add", "shop", "--repo", str(repository), "--base", "mian")
        assert result.exit_code == 2
        assert "has no branch 'mian'" in result.stderr

    def test_a_pair_without_its_half(self, run: Run, repository: Path) -> None:
        """ROLE=AGENT needs both."""
        result = run("project", "add", "shop", "--repo", str(repository), "--role", "developer")
        assert result.exit_code == 2
        assert "ROLE=AGENT" in result.stderr

    def test_a_pipeline_with_a_circle(self, run: Run, repository: Path, tmp_path: Path) -> None:
        """A pipeline is checked with the rules of the scheduler before it is sent."""
        file = tmp_path / "pipeline.toml"
        file.write_text(
            'name = "p"\n[[stages]]\nname = "a"\nrole = "x"\nneeds = ["b"]\n'
            '[[stages]]\nname = "b"\nrole = "x"\nneeds = ["a"]\n'
        )
        result = run("project", "add", "shop", "--repo", str(repository), "--pipeline", str(file))
        assert result.exit_code == 2
        assert "a → b → a" in result.stderr


class TestSubmit:
    def test_sends_everything(self, run: Run, gateway: StubGateway, tmp_path: Path) -> None:
        """Every option has its place in the body; a budget only holds what was given."""
        text = tmp_path / "more.md"
        text.write_text("More about it.\n")
        gateway.on("POST /projects/shop/tasks", Answer(accepted("shop-2"), 201))
        result = run(
            *("task", "submit", "shop", "Mend it", "--agent", "coder", "-d", f"@{text}", "--criterion", "it works"),
            *("--file", "cart.py", "--priority", "5", "--depends-on", "shop-1", "--budget-usd", "2.5"),
        )
        assert result.exit_code == 0, result.output
        assert "shop-2" in result.stdout
        body = gateway.requests[0].body
        assert body == {
            "title": "Mend it",
            "description": "More about it.\n",
            "acceptance_criteria": ["it works"],
            "target_files": ["cart.py"],
            "test_command": "",
            "priority": 5,
            "depends_on": ["shop-1"],
            "agent": "coder",
            "budget": {"cost_usd": 2.5},
        }

    def test_description_from_standard_input(self, run: Run, gateway: StubGateway) -> None:
        """`-d -` reads standard input to its end."""
        gateway.on("POST /projects/shop/tasks", Answer(accepted("shop-2"), 201))
        assert run("task", "submit", "shop", "Mend it", "-d", "-", input="from a pipe").exit_code == 0
        assert gateway.requests[0].body["description"] == "from a pipe"

    def test_an_outcome_that_is_not_known_yet(self, run: Run, gateway: StubGateway) -> None:
        """202 is no failure: the command is kept and will be done."""
        pending = {"outcome": "pending", "command_id": "c", "location": "/api/v1/tasks", "detail": "It is kept safely."}
        gateway.on("POST /projects/shop/tasks", Answer(pending, 202))
        result = run("task", "submit", "shop", "Mend it")
        assert result.exit_code == 0
        assert "It is kept safely." in result.stderr

    def test_wait_tells_and_succeeds(self, run: Run, gateway: StubGateway) -> None:
        """--wait shows what happens and the task at its end."""
        gateway.on("POST /projects/shop/tasks", Answer(accepted("shop-1"), 201))
        call = {
            "type": "ToolCallRequested",
            "tool": "shell",
            "arguments": {"kind": "inline", "text": '{"command":"ls"}'},
        }
        gateway.on(
            "GET /events/stream",
            stream(
                frame(8, decision(8, "run", "shop-1-development-1", call)),
                frame(9, decision(9, "task", "shop-1", {"type": "TaskCompleted"})),
            ),
        )
        gateway.on("GET /tasks/shop-1", Answer(task_row()))
        result = run("task", "submit", "shop", "Mend it", "--wait")
        assert result.exit_code == 0, result.output
        assert '→ shell {"command":"ls"}' in result.stdout
        assert "task completed" in result.stdout
        assert gateway.requests[-1].query == {"wait_for": "9"}

    def test_wait_fails_with_the_task(self, run: Run, gateway: StubGateway) -> None:
        """A task that was not completed ends the command with 1."""
        gateway.on("POST /projects/shop/tasks", Answer(accepted("shop-1"), 201))
        failed = {"type": "TaskFailed", "stage": "development", "cause": "crashed"}
        gateway.on("GET /events/stream", stream(frame(9, decision(9, "task", "shop-1", failed))))
        gateway.on("GET /tasks/shop-1", Answer(task_row(status="failed")))
        result = run("task", "submit", "shop", "Mend it", "--wait", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["status"] == "failed"

    def test_wait_goes_on_after_a_lost_connection(self, run: Run, gateway: StubGateway) -> None:
        """The second connection begins after the last event seen, and nothing is told twice."""
        gateway.on("POST /projects/shop/tasks", Answer(accepted("shop-1"), 201))
        requested = {"type": "RunRequested", "stage": "development", "attempt": 1, "agent_name": "coder"}
        gateway.on(
            "GET /events/stream",
            stream(frame(8, decision(8, "task", "shop-1", requested)), cut=True),
            problem(503, "stopping", "The gateway is stopping; connect again."),
            stream(frame(9, decision(9, "task", "shop-1", {"type": "TaskCompleted"}))),
        )
        gateway.on("GET /tasks/shop-1", Answer(task_row()))
        result = run("task", "submit", "shop", "Mend it", "--wait")
        assert result.exit_code == 0, result.output
        assert result.stdout.count("attempt 1 with agent coder") == 1
        streams = [request for request in gateway.requests if request.path == "/events/stream"]
        assert [request.last_event_id for request in streams] == ["0", "8", "8"]


class TestOthers:
    def test_list_as_a_table_and_as_json(self, run: Run, gateway: StubGateway) -> None:
        """The table is for people, --json for programs, with nothing else on standard output."""
        gateway.on("GET /tasks", page(task_row(), task_row("shop-2", status="running")))
        shown = run("task", "list", "--project", "shop").stdout
        assert "shop-1" in shown
        assert "running" in shown
        assert gateway.requests[0].query == {"project": "shop"}
        assert [row["id"] for row in json.loads(run("task", "list", "--json").stdout)] == ["shop-1", "shop-2"]

    def test_show_names_questions_runs_and_obstacles(self, run: Run, gateway: StubGateway) -> None:
        """Everything a person needs to go on stands on one page."""
        question = {"run_id": "shop-1-development-1", "call_id": "shop-1-development-1-c3", "question": "Which one?"}
        task = task_row(status="needs_input", questions=[question], run_list=[run_row(status="running")])
        gateway.on("GET /tasks/shop-1", Answer(task))
        why = {"summary": "Its agent asks.", "obstacles": [{"kind": "needs-input", "detail": "Its agent asks: Which?"}]}
        gateway.on("GET /tasks/shop-1/why", Answer(why))
        shown = run("task", "show", "shop-1")
        assert shown.exit_code == 0, shown.output
        assert "Which one?" in shown.stdout
        assert "shop-1-development-1" in shown.stdout
        assert "Its agent asks: Which?" in shown.stdout
        assert "cairn task answer shop-1" in shown.stderr

    @pytest.mark.parametrize(
        ("arguments", "path", "body"),
        [
            (["cancel", "shop-1", "--reason", "dropped"], "/tasks/shop-1/cancel", {"reason": "dropped"}),
            (["retry", "shop-1"], "/tasks/shop-1/retry", {}),
            (["answer", "shop-1", "the second"], "/tasks/shop-1/answer", {"answer": "the second", "call_id": ""}),
            (["approve", "shop-1", "review"], "/tasks/shop-1/stages/review/approve", {}),
            (
                ["reject", "shop-1", "review", "--reason", "no test"],
                "/tasks/shop-1/stages/review/reject",
                {"reason": "no test"},
            ),
        ],
    )
    def test_commands(
        self, run: Run, gateway: StubGateway, arguments: list[str], path: str, body: dict[str, str]
    ) -> None:
        """Each command goes to its address with its body."""
        gateway.on(f"POST {path}", Answer(accepted("shop-1")))
        result = run("task", *arguments)
        assert result.exit_code == 0, result.output
        assert gateway.requests[0].body == body
