"""What cannot be is said clearly, by whoever finds it first, and harms nothing else."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.git_examples import git
from tests.model_server import Call, ModelServer, Turn, insufficient_quota
from tests.system.examples import MEND, TEST_COMMAND, repository, shell, submit
from tests.system.stack import API, CAIRN, SystemStack, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

TEN_MEGABYTES = 10 * 1024 * 1024
WORKER = {"grace_seconds": 0.5}


@pytest.fixture(scope="module")
def shop(stack: SystemStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A project in which nothing is wrong."""
    stack.project("shop", repository(tmp_path_factory.mktemp("shop") / "repository"))
    return "shop"


def test_unknown_names(stack: SystemStack, shop: str) -> None:
    """Each is named, with what to do; nothing comes of it."""
    begun = stack.last_sequence()
    said = stack.cairn("task", "submit", "nowhere", "Do it", "--agent", "anthropic", exit_code=4)
    assert "no project 'nowhere'" in said
    assert "cairn project add" in said
    said = stack.cairn("task", "submit", shop, "Do it", "--agent", "nobody", exit_code=2)
    assert "no agent 'nobody'" in said
    assert "anthropic, openai" in said
    for command in (["task", "show"], ["task", "cancel"], ["task", "retry"], ["logs"], ["replay"], ["pr", "show"]):
        assert "shop-99" in stack.cairn(*command, "shop-99", exit_code=4)
    # A host tells of itself at times, whatever is asked.
    since = stack.items("/events", after=begun)
    assert [decision for decision in since if decision["entity"] in ("task", "project", "run")] == []


def test_impossible_dependencies(stack: SystemStack, shop: str, tmp_path: Path) -> None:
    """Unknown ones, those of other projects, and a circle, which is shown."""
    other = repository(tmp_path / "other")
    stack.project("elsewhere", other)
    stack.agent("quick", kind="program", command=["sh", "-c", "echo more > more.txt"])
    foreign = stack.submit("elsewhere", "Somewhere else", agent="quick")
    task = stack.submit(shop, "A task", agent="quick")
    prefix, _, number = task.rpartition("-")
    following = f"{prefix}-{int(number) + 1}"
    for dependency, message in (
        ("shop-999", "there is no task 'shop-999'"),
        (foreign, "belongs to project elsewhere"),
        (following, f"{following} → {following}"),
    ):
        said = stack.cairn("task", "submit", shop, "Do it", "--agent", "quick", "--depends-on", dependency, exit_code=2)
        assert message in said
    # A refused submission uses up no number.
    assert stack.submit(shop, "The next", agent="quick", depends_on=[task]) == following
    stack.feed.ended(following)


@contextmanager
def wanting_credentials() -> Iterator[str]:
    """The URL of a repository that nobody may read without a password."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="shop"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/shop.git"
    finally:
        server.shutdown()
        server.server_close()


def test_repositories_that_cannot_be_used(stack: SystemStack, tmp_path: Path) -> None:
    """A path is refused when the project is added; what only the worker can know fails the task, with the reason."""
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    add = ("project", "add", "unusable", "--repo")
    assert "does not exist" in stack.cairn(*add, str(tmp_path / "missing"), exit_code=2)
    assert "has no commits yet" in stack.cairn(*add, str(empty), exit_code=2)
    assert "is no git repository" in stack.cairn(*add, str(tmp_path), exit_code=2)

    with wanting_credentials() as url:
        tasks = {}
        for name, where in (("missing", tmp_path / "missing"), ("void", empty), ("locked", url)):
            stack.project(name, where)
            tasks[name] = stack.submit(name, "Do it", agent="anthropic")
        failed = {name: stack.feed.ended(task, "TaskFailed") for name, task in tasks.items()}
    assert {item.event["cause"] for item in failed.values()} == {"unprepared"}
    details = {name: item.event["detail"] for name, item in failed.items()}
    assert str(tmp_path / "missing") in details["missing"]
    assert "commit" in details["void"]
    assert "give this host access" in details["locked"]
    for task in tasks.values():
        # Nothing changes by trying again, and the model was never asked.
        assert len(stack.feed.all("RunRequested", task)) == 1
        assert stack.feed.all("ModelResponded", task) == []
        assert stack.json("task", "show", task)["why"]["summary"]


def test_commands_that_go_wrong(stack: SystemStack, tmp_path: Path) -> None:
    """Not found, endless, silent, printing binary, a line of 10 MB, forking daemons: six programs side by side, each
    with the end that is due to it."""
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)) * 64)
    programs = {
        "absent": ["no-such-program-anywhere"],
        "endless": ["sh", "-c", "while true; do echo tick; sleep 0.05; done"],
        "silent": ["sleep", "1000"],
        "binary": ["sh", "-c", f"cat {noise}; {MEND}"],
        "long": ["sh", "-c", f"head -c {TEN_MEGABYTES} /dev/zero | tr '\\0' x; {MEND}"],
        "forking": ["sh", "-c", f"for i in 1 2 3; do (setsid sleep 1000 &); done; {MEND}"],
    }
    limits = {"endless": {"seconds": 1.0}, "silent": {"idle_seconds": 1.0}}
    tasks = {}
    for name, command in programs.items():
        stack.agent(name, kind="program", command=command, limits=limits.get(name, {}))
        stack.project(name, repository(tmp_path / name), test_command=TEST_COMMAND, max_attempts=1)
        tasks[name] = stack.submit(name, f"Be {name}", agent=name)
    ends = {"absent": "crashed", "endless": "timed_out", "silent": "fell_silent"}
    failed = {name: stack.feed.ended(tasks[name], "TaskFailed") for name in ends}
    assert {name: item.event["cause"] for name, item in failed.items()} == ends
    assert "no-such-program-anywhere" in failed["absent"].event["detail"]
    for name in ("binary", "long", "forking"):
        stack.feed.ended(tasks[name])

    (completed,) = [item.event for item in stack.feed.all("ToolCallCompleted", tasks["long"], tool="program")]
    assert (completed["output_bytes"], completed["truncated"]) == (TEN_MEGABYTES, True)
    assert stack.cairn("logs", f"{tasks['long']}-development-1") == "x" * TEN_MEGABYTES
    assert stack.feed.until("ToolCallCompleted", tasks["binary"]).event["output_bytes"] == noise.stat().st_size
    assert "�" in stack.cairn("logs", f"{tasks['binary']}-development-1")
    assert stack.processes_below(stack.home / "environments" / f"{tasks['forking']}-development") == []
    for name in ("endless", "silent"):
        workspace = stack.home / "environments" / f"{tasks[name]}-development" / "workspace"
        assert stack.processes_below(workspace) == []


def test_paths_outside_the_workspace(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Absolute, with `..`, through a link: refused, and the model is told why; nothing outside was touched."""
    outside = tmp_path / "outside.txt"
    outside.write_text("nobody else's business")
    links = f"ln -s '{outside}' link; ln -s '{tmp_path}' folder"
    calls = (
        Call("read_file", {"path": str(outside)}),
        Call("read_file", {"path": "../../../../../../etc/hostname"}),
        Call("read_file", {"path": "link"}),
        Call("write_file", {"path": "link", "content": "changed"}),
        Call("write_file", {"path": "folder/new.txt", "content": "new"}),
        Call("edit_file", {"path": "folder/outside.txt", "old": "nobody", "new": "anybody"}),
        Call("list_files", {"path": ".."}),
        Call("search_files", {"path": "folder", "pattern": "nobody"}),
    )
    model.add("Look outside", [shell(links), Turn(calls=calls), shell(f"rm link folder; {MEND}"), submit()])
    stack.project("outside", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit("outside", "Look outside", agent="anthropic")
    stack.feed.ended(task)
    failed = stack.feed.all("ToolCallFailed", task)
    assert len(failed) == len(calls)
    assert {item.event["cause"] for item in failed} == {"path-outside-workspace"}
    assert outside.read_text() == "nobody else's business"
    assert not (tmp_path / "new.txt").exists()
    assert "else's business" not in str(stack.items("/events", limit=1000, task=task))


def test_a_provider_that_refuses(stack: SystemStack, model: ModelServer, shop: str, tmp_path: Path) -> None:
    """A wrong key and a spent quota are no reasons to wait: the task fails at once with what to do."""
    key = tmp_path / "wrong-key"
    key.write_text("wrong-key-of-the-test")
    fields = {"kind": "model", "provider": "anthropic", "model": model.model, "base_url": model.url}
    stack.agent("locked-out", **fields, key=f"file:{key}")
    stack.agent("keyless", **fields, key="env:NO_SUCH_VARIABLE_ANYWHERE")
    model.add("Spend it", [submit(faults=(insufficient_quota(),))])
    for title, agent, cause, detail in (
        ("Get in", "locked-out", "bad-credentials", "Check the agent's key"),
        ("Spend it", "openai", "spend-limit", "Raise the limit"),
        ("Without a key", "keyless", "bad-credentials", "NO_SUCH_VARIABLE_ANYWHERE"),
    ):
        task = stack.submit(shop, title, agent=agent)
        assert stack.feed.ended(task, "TaskFailed").event["cause"] == "refused"
        refused = stack.feed.until("RunRefused", task).event
        assert (refused["cause"], detail in refused["detail"]) == (cause, True)
        assert stack.feed.all("ModelCallPostponed", task) == []
    assert "wrong-key-of-the-test" not in stack.feed.told("shop")


def test_an_agent_with_a_typo(stack: SystemStack, shop: str, tmp_path: Path) -> None:
    """In a running stack the submission says so; a new one does not start."""
    before = stack.settings_file.read_text()
    try:
        stack.settings_file.write_text(before + '\n[agents.misspelt]\nkind = "program"\ncomand = ["true"]\n')
        said = stack.cairn("task", "submit", shop, "Do it", "--agent", "misspelt", exit_code=2)
        assert "Did you mean `command`?" in said
        shutil.copy(stack.settings_file, tmp_path / "cairn.toml")
    finally:
        stack.settings_file.write_text(before)
    started = subprocess.run(
        [*CAIRN, "up"], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode == 2
    assert "cairn.toml" in started.stderr
    assert "Did you mean `command`?" in started.stderr
    assert not (tmp_path / ".cairn").exists()


def test_requests_that_are_refused(stack: SystemStack, shop: str) -> None:
    """Too large, with a wrong key, with none, broken: each is a problem that says what is wrong."""
    path = f"{API}/projects/{shop}/tasks"
    large = stack.http.post(path, json={"title": "x" * 2_000_000, "agent": "anthropic"})
    assert (large.status_code, large.json()["slug"]) == (413, "body-too-large")
    broken = stack.http.post(path, content=b'{"title": ', headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["slug"]) == (400, "malformed-json")
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
        refused = httpx2.post(stack.url + path, json={"title": "Do it", "agent": "anthropic"}, headers=header)
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/problem+json"
    assert "key" in stack.cairn("--key", "wrong", "task", "list", exit_code=3)
