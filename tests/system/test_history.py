"""What is told afterwards and meanwhile: events, output, states as they were, dead letters, secrets that are not."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest

from infra.embedded import stack_file
from tests.model_server import ModelServer
from tests.system.examples import MEND, TEST_COMMAND, lines, numbers, repository, shell, submit, until_exists
from tests.system.stack import CAIRN, SystemStack, clean_environment, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

SECRET = "s3cr3t-Passw0rd-of-the-shop"


@contextmanager
def following(stack: SystemStack, told: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `cairn` that runs beside the test and writes what it prints to a file."""
    with told.open("wb") as output:
        process = subprocess.Popen(
            [*CAIRN, *arguments], cwd=stack.directory, env=clean_environment(), stdout=output, stderr=subprocess.PIPE
        )
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=10)


def told_to(told: Path) -> int:
    """The sequence of the last decision that stands there whole."""
    whole = told.read_text().split("\n")[:-1]
    return int(json.loads(whole[-1])["sequence"]) if whole else 0


def test_output_is_followed_over_a_killed_gateway(stack: SystemStack, tmp_path: Path) -> None:
    """`cairn logs -f` prints 5,000 lines, each once and in order, while the gateway dies in the middle of them."""
    go, ran, told = tmp_path / "go", tmp_path / "ran", tmp_path / "told"
    command = f"seq 1 2500; echo half >> '{ran}'; {until_exists(go)}; seq 2501 5000; {MEND}"
    stack.agent("counting", kind="program", command=["bash", "-c", command])
    stack.project("counted", repository(tmp_path / "repository"))
    task = stack.submit("counted", "Count", agent="counting")
    wait_until(lambda: lines(ran) == ["half"], "the first half is printed")
    with following(stack, told, "logs", f"{task}-development-1", "-f") as process:
        wait_until(lambda: told.read_text() == numbers(1, 2500), "the first half is shown")
        stack.kill("gateway")
        go.touch()
        assert process.wait(60) == 0
    assert told.read_text() == numbers(1, 5000)
    stack.feed.ended(task)
    assert stack.cairn("logs", f"{task}-development-1") == numbers(1, 5000)


def test_events_are_followed_and_paged(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """`cairn events -f` tells live what the log holds afterwards; replay shows the task as it was at each of them."""
    model.add("Tell it", [shell(MEND), submit()])
    stack.project("told", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    told = tmp_path / "told"
    with following(stack, told, "events", "-f", "--json") as process:
        task = stack.submit("told", "Tell it", agent="anthropic")
        ended = stack.feed.ended(task)
        wait_until(lambda: told_to(told) >= ended.sequence, "it is told")
        assert process.poll() is None
    live = [json.loads(line) for line in lines(told)]
    logged = [decision for decision in stack.items("/events", limit=1000) if decision["sequence"] <= ended.sequence]
    assert [decision for decision in live if decision["sequence"] <= ended.sequence] == logged
    of_task = [json.loads(line) for line in stack.cairn("events", "--task", task, "--json").splitlines()]
    assert {decision["entity"] for decision in of_task} == {"task", "run", "environment", "pull_request"}

    statuses = [
        stack.json("replay", task, "--at", str(decision["sequence"]))["status"]
        for decision in of_task
        if decision["entity"] == "task"
    ]
    assert (statuses[0], statuses[-1]) == ("queued", "completed")
    assert set(statuses) == {"queued", "running", "completed"}
    run = f"{task}-development-1"
    requested = stack.feed.until("ToolCallRequested", run)
    before = stack.json("replay", run, "--at", str(requested.sequence))
    assert (before["status"], before["state"]["steps"]) == ("running", 1)
    assert stack.json("replay", run)["status"] == "succeeded"
    assert stack.json("replay", task)["later_decisions"] == 0
    assert "did not exist yet" in stack.cairn("replay", task, "--at", "1", exit_code=4)


async def test_dead_letters(stack: SystemStack) -> None:
    """Junk on a subject of commands is kept with its reason, can be looked at, and can be sent again."""
    file = stack_file.read(stack.home)
    assert file is not None
    client = await nats.connect(file.nats_url)
    subject = "cmd.default.scheduler.any.task.junk-1"
    await client.jetstream().publish(subject, b'{"this is": "no command"}')
    await client.close()
    wait_until(lambda: len(stack.json("dead-letters", "list")) == 1, "the dead letter is there")
    (letter,) = stack.json("dead-letters", "list")
    assert (letter["service"], letter["reason"], letter["subject"]) == ("scheduler", "undecodable", subject)
    shown = stack.json("dead-letters", "show", str(letter["sequence"]))
    assert shown["command"] == {"this is": "no command"}
    stack.cairn("dead-letters", "resend", str(letter["sequence"]))
    # It is still junk: sent again it dies again, under another number.
    wait_until(
        lambda: [row["sequence"] for row in stack.json("dead-letters", "list")] > [letter["sequence"]],
        "it is a dead letter again",
    )
    assert "There is no dead letter" in stack.cairn("dead-letters", "show", str(letter["sequence"]), exit_code=4)


@pytest.mark.parametrize("kind", ["model", "program"])
def test_secrets_stand_nowhere(stack: SystemStack, model: ModelServer, tmp_path: Path, kind: str) -> None:
    """A secret of the project reaches the process, and whatever the process prints of it is stored nowhere."""
    reference = tmp_path / "secret"
    reference.write_text(SECRET)
    encoded = base64.b64encode(SECRET.encode()).decode()
    command = (
        f'[ ${{#SHOP_PASSWORD}} = {len(SECRET)} ] || exit 9; echo "it is $SHOP_PASSWORD"; '
        f'printf %s "$SHOP_PASSWORD" | base64; echo "url=http://shop:$SHOP_PASSWORD@host/" >&2; {MEND}'
    )
    title = f"Print the secret as a {kind}"
    model.add(title, [shell(command), submit()])
    stack.agent("careless", kind="program", command=["bash", "-c", command])
    project = f"secret-{kind}"
    secrets = {"SHOP_PASSWORD": f"file:{reference}"}
    stack.project(project, repository(tmp_path / "repository"), secrets=secrets, test_command=TEST_COMMAND)
    task = stack.submit(project, title, agent="careless" if kind == "program" else "openai")
    stack.feed.ended(task)
    assert stack.feed.until("ToolCallCompleted", task).event["exit_code"] == 0

    output = stack.cairn("logs", f"{task}-development-1")
    assert "it is ***" in output
    told = {
        "output": output,
        "events": json.dumps(stack.items("/events", limit=1000)),
        "read models": json.dumps(stack.read_models()),
        "what the model was shown": json.dumps([request.body for request in model.requests]),
        "logs of the services": "".join(path.read_text() for path in (stack.home / "logs").glob("*.log")),
    }
    for where, text in told.items():
        assert SECRET not in text, where
        assert encoded not in text, where
        assert encoded.rstrip("=")[4:-4] not in text, where
    # Nor on the disk: the store of NATS, the files of the shims, PostgreSQL.
    found = subprocess.run(["grep", "-rlaF", "-e", SECRET, "-e", encoded, stack.home], capture_output=True, text=True)
    assert found.stdout == ""
