"""The shim and its adapter with real processes, real signals and real deaths."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.errors import Permanent
from infra.redaction import Redactor
from services.environment_manager.adapters.processes import READ_BYTES, ShimProcesses, sweep
from services.environment_manager.ports import Limits
from tests.shim_examples import (
    ENVIRONMENT,
    LONG,
    PATH,
    checked_directory,
    left,
    make,
    printed_by,
    processes_named,
    run,
)
from tests.waiting import until

pytestmark = pytest.mark.integration

OF_THE_C_LIBRARY = 0b11 << 31


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    async for path in checked_directory(tmp_path):
        yield path


async def test_says_how_a_program_ended(directory: Path) -> None:
    """Exit code, output of both streams in order, its size and the duration are known."""
    shims = make(directory)
    ended, printed = await run(shims, "c1", "bash", "-c", "echo one; echo two >&2; sleep 0.1; echo three; exit 3")
    assert ended is not None
    assert (ended.cause, ended.code, ended.output_bytes) == ("exited", 3, 14)
    assert printed == b"one\ntwo\nthree\n"
    assert 90 <= ended.duration_ms < 5000


async def test_names_the_signal_that_ended_a_program(directory: Path) -> None:
    """A program that crashes has no exit code, and the signal is told."""
    ended, _ = await run(make(directory), "c1", "bash", "-c", "kill -SEGV $$")
    assert ended is not None
    assert (ended.cause, ended.code, ended.detail) == ("signalled", None, "It was ended by SIGSEGV.")


@pytest.mark.parametrize(
    ("argv", "detail"),
    [
        (["no-such-command"], "was not found on PATH"),
        (["./missing"], "does not exist"),
        (["./plain"], "is not executable"),
        (["./folder"], "is a directory"),
        (["./bad-interpreter"], "interpreter"),
        (["./no-shebang"], "neither a program nor a script"),
    ],
)
async def test_says_why_a_command_could_not_be_started(directory: Path, argv: list[str], detail: str) -> None:
    """What cannot be executed ends as not-found, and says which of the reasons it is."""
    shims = make(directory)
    workspace = directory / "workspace"
    (workspace / "plain").write_text("#!/bin/sh\n")
    (workspace / "folder").mkdir()
    for name, text in (("bad-interpreter", "#!/no/such/thing\n"), ("no-shebang", "\x01\x02")):
        (workspace / name).write_text(text)
        (workspace / name).chmod(0o755)
    ended, _ = await run(shims, "c1", *argv)
    assert ended is not None
    assert (ended.cause, ended.code) == ("not-found", None)
    assert detail in ended.detail


async def test_a_missing_workspace_is_named(directory: Path) -> None:
    """Where the workspace is gone, the detail says so rather than blaming the command."""
    shims = make(directory)
    (directory / "workspace").rmdir()
    ended, _ = await run(shims, "c1", "true")
    assert ended is not None
    assert ended.cause == "not-found"
    assert "workspace" in ended.detail


async def test_binary_output_and_a_line_of_10_mb_arrive_whole(directory: Path) -> None:
    """Output is bytes: nothing is decoded, split or lost, however long a line is."""
    shims = make(directory)
    program = "import os,sys; w=sys.stdout.buffer.write; w(bytes(range(256))); w(b'x' * 10_000_000); w(b'\\xff\\n')"
    ended, printed = await run(shims, "c1", sys.executable, "-c", program)
    assert printed == bytes(range(256)) + b"x" * 10_000_000 + b"\xff\n"
    assert ended is not None
    assert ended.output_bytes == len(printed)


async def test_a_program_that_never_ends_is_ended_by_its_time_limit(directory: Path) -> None:
    """SIGTERM comes first, so that the program can tidy up; the cause is the time limit all the same."""
    ended, printed = await run(
        make(directory),
        "c1",
        "bash",
        "-c",
        "trap 'sleep 0.1; echo tidied; exit 0' TERM; echo up; while :; do sleep 0.05; done",
        limits=Limits(seconds=0.5, grace_seconds=5),
    )
    assert ended is not None
    assert (ended.cause, ended.code) == ("timed-out", 0)
    assert "0.5 s" in ended.detail
    assert printed.endswith(b"tidied\n")
    assert 400 <= ended.duration_ms < 4000


async def test_a_silent_program_is_ended_by_its_idle_limit(directory: Path) -> None:
    """Silence counts from the last output, not from the start."""
    ended, _ = await run(
        make(directory),
        "c1",
        "bash",
        "-c",
        "for i in 1 2 3 4; do echo $i; sleep 0.3; done; exec sleep 60",
        limits=Limits(idle_seconds=0.8, grace_seconds=1),
    )
    assert ended is not None
    assert (ended.cause, ended.output_bytes) == ("idle", 8)
    assert 1500 <= ended.duration_ms < 6000


async def test_a_program_that_prints_without_end_is_ended_by_its_output_limit(directory: Path) -> None:
    """The limit ends the whole pipeline soon after it was exceeded."""
    limits = Limits(output_bytes=1_000_000, grace_seconds=1)
    ended, _ = await run(make(directory), "c1", "bash", "-c", "while :; do printf '%01000d\\n' 7; done", limits=limits)
    assert ended is not None
    assert ended.cause == "output-limit"
    assert 1_000_000 < ended.output_bytes < 100_000_000


async def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(directory: Path) -> None:
    """The grace is kept, and not exceeded by much."""
    shims = make(directory)
    await shims.start(
        ENVIRONMENT,
        "c1",
        ["bash", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"],
        env=PATH,
        limits=Limits(grace_seconds=0.6),
    )
    await until(lambda: printed_by(directory, "c1"))
    begin = time.monotonic()
    await shims.interrupt(ENVIRONMENT, "c1")
    await shims.interrupt(ENVIRONMENT, "c1")
    ended = await shims.wait(ENVIRONMENT, "c1")
    assert ended is not None
    assert (ended.cause, ended.code) == ("interrupted", None)
    assert 0.55 <= time.monotonic() - begin < 4


DAEMONS = """
import os, sys, time
for kind in range(4):
    if os.fork() == 0:
        os.setsid()
        if kind != 1 and os.fork(): os._exit(0)
        if kind == 2: os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
        if kind == 3:
            import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
print("gone", flush=True)
time.sleep(0.3)
"""


async def test_daemons_are_gone_when_the_call_ends(directory: Path) -> None:
    """setsid, double forks, an emptied environment, SIGTERM ignored: nothing outlives its call; the rest runs on."""
    shims = make(directory)
    await shims.start(ENVIRONMENT, "other", ["sleep", "77777"], env=PATH, limits=Limits(grace_seconds=1))
    ended, printed = await run(shims, "c1", sys.executable, "-c", DAEMONS, LONG)
    assert ended is not None
    assert (ended.cause, ended.code, printed) == ("exited", 0, b"gone\n")
    assert ended.duration_ms < 3000
    assert processes_named(LONG) == []
    assert await shims.known(ENVIRONMENT) == {"c1": False, "other": True}
    assert len(left(directory)) == 3  # the shim, the other call's keeper and its program


async def test_closing_ends_everything(directory: Path) -> None:
    """After close there is no process left, not even the shim; closing twice is fine."""
    shims = make(directory)
    for call in ("c1", "c2"):
        await shims.start(
            ENVIRONMENT, call, ["bash", "-c", "trap '' TERM; setsid sleep 999 & wait"], env=PATH, limits=Limits()
        )
    begin = time.monotonic()
    waiting = asyncio.ensure_future(shims.wait(ENVIRONMENT, "c1"))
    await asyncio.sleep(0.1)
    await shims.close(ENVIRONMENT)
    assert left(directory) == []
    assert time.monotonic() - begin < 5
    assert await waiting is None
    await shims.close(ENVIRONMENT)
    assert not (directory / "shim.sock").exists()


async def test_a_call_is_started_once(directory: Path) -> None:
    """The same call id again, even with another command or after the end, starts nothing."""
    shims = make(directory)
    begin = {"env": PATH, "limits": Limits()}
    argv = ["bash", "-c", "echo ran >> runs; sleep 0.2"]
    await asyncio.gather(*(shims.start(ENVIRONMENT, "c1", argv, **begin) for _ in range(3)))  # type: ignore[arg-type]
    first = await shims.wait(ENVIRONMENT, "c1")
    await shims.start(ENVIRONMENT, "c1", ["bash", "-c", "echo ran >> runs"], env=PATH, limits=Limits())
    assert await shims.wait(ENVIRONMENT, "c1") == first
    assert (directory / "workspace/runs").read_text() == "ran\n"


async def test_only_one_shim_serves_a_directory(directory: Path) -> None:
    """Many that start one at the same time share it."""
    many = [make(directory) for _ in range(4)]
    await asyncio.gather(*(shims.ready(ENVIRONMENT) for shims in many))
    await until(lambda: len(left(directory)) == 1)


async def test_the_program_sees_only_what_it_was_given(directory: Path) -> None:
    """Its own session, no core files, /dev/null as input, no other descriptor, no privileges to gain, no signal ignored
    although a service in the background of a script ignores some."""
    script = "env | cut -d= -f1 | sort | tr '\\n' ' '; ulimit -c; ls /proc/self/fd | wc -l; cat; pwd; umask"
    script += "; grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status"
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)]
    try:
        _, printed = await run(make(directory), "c1", "bash", "-c", script)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGQUIT), before, strict=True):
            signal.signal(number, handler)
    lines = printed.decode().splitlines()
    assert lines[0].split() == [
        "CAIRN_CALL", "CAIRN_ENVIRONMENT", "CAIRN_ENVIRONMENT_DIRECTORY", "PATH", "PWD", "SHLVL", "_", "0",
    ]  # fmt: skip
    assert lines[1:4] == ["4", str(directory / "workspace"), "0022"]
    blocked, ignored, no_new_privileges = (int(line.split()[1], 16) for line in lines[4:])
    # 32 and 33 belong to the C library, which lets nobody set them: they stay as whoever started the tests had them.
    assert (blocked & ~OF_THE_C_LIBRARY, ignored & ~OF_THE_C_LIBRARY, no_new_privileges) == (0, 0, 1)


async def test_values_of_variables_are_not_written_down(directory: Path) -> None:
    """A secret reaches the program by its environment and no file of the shim."""
    shims = make(directory)
    argv = ["bash", "-c", "test ${#TOKEN} = 14"]
    await shims.start(ENVIRONMENT, "c1", argv, env={**PATH, "TOKEN": "hunter2hunter2"}, limits=Limits())
    ended = await shims.wait(ENVIRONMENT, "c1")
    assert ended is not None
    assert ended.code == 0
    request = (directory / "calls/c1/request.json").read_text()
    assert "TOKEN" in request
    assert "hunter2" not in request


async def test_output_is_cut_in_the_middle(directory: Path) -> None:
    """Within the limit all of it, else head and tail around a line that counts what is missing."""
    shims = make(directory)
    await run(shims, "c1", "seq", "1", "1000")
    whole = await shims.output(ENVIRONMENT, "c1", Redactor(), limit_bytes=10_000)
    assert whole == b"".join(b"%d\n" % i for i in range(1, 1001))
    part = await shims.output(ENVIRONMENT, "c1", Redactor(), limit_bytes=500)
    assert len(part) <= 500
    head, note, tail = part.partition(b"\n[... ")
    assert whole.startswith(head)
    assert whole.endswith(tail.partition(b" bytes left out ...]\n")[2])
    assert int(tail.split()[0]) == len(whole) - len(head) - len(tail.partition(b"]\n")[2])
    assert note
    assert await shims.output(ENVIRONMENT, "never", Redactor(), limit_bytes=500) == b""


@pytest.mark.parametrize("before", [35, 195, 205, 215, 225, 355])
async def test_a_secret_across_the_cut_is_masked(directory: Path, before: int) -> None:
    """Where the output is cut nobody sees half of a secret."""
    shims = make(directory)
    secret = "correct-horse-battery"
    text = secret.join(("x" * before, "x" * (400 - before)))
    await run(shims, "c1", "printf", "%s", text)
    for limit_bytes in range(100, 300, 7):
        part = await shims.output(ENVIRONMENT, "c1", Redactor([secret]), limit_bytes=limit_bytes)
        head, _, rest = part.partition(b"\n[... ")
        tail = rest.partition(b" bytes left out ...]\n")[2]
        assert set(head + tail) <= set(b"x*"), limit_bytes
        assert text.replace(secret, "*" * len(secret)).encode().startswith(head)


async def test_output_waits_for_who_takes_it(directory: Path) -> None:
    """What a process prints stays in the file until it is asked for, piece by piece, however fast it comes."""
    shims = make(directory)
    pieces: list[int] = []
    goes_on = asyncio.Event()

    async def on_output(offset: int, data: bytes) -> None:
        assert offset == sum(pieces)
        pieces.append(len(data))
        await goes_on.wait()

    await shims.start(ENVIRONMENT, "c1", ["head", "-c", "5000000", "/dev/zero"], env=PATH, limits=Limits())
    waiting = asyncio.create_task(shims.wait(ENVIRONMENT, "c1", on_output))
    output = directory / "calls" / "c1" / "output"
    await until(lambda: output.exists() and output.stat().st_size == 5_000_000)
    assert len(pieces) <= 1
    goes_on.set()
    ended = await waiting
    assert ended is not None
    assert sum(pieces) == ended.output_bytes == 5_000_000
    assert max(pieces) <= READ_BYTES


async def test_refuses_what_cannot_be(directory: Path) -> None:
    """A call id that is a path, an environment without a directory."""
    shims = make(directory)
    with pytest.raises(Permanent, match="could not be started"):
        await shims.start(ENVIRONMENT, "../up", ["true"], env=PATH, limits=Limits())
    with pytest.raises(Permanent, match="cannot name a call"):
        await shims.wait(ENVIRONMENT, "../up")
    with pytest.raises(Permanent, match="has no directory"):
        await ShimProcesses(lambda _: directory / "none").ready(ENVIRONMENT)
    assert await shims.wait(ENVIRONMENT, "never-started") is None


async def test_a_sweep_does_not_touch_a_living_shim(directory: Path) -> None:
    """The lock says that somebody is in charge."""
    shims = make(directory)
    await shims.start(ENVIRONMENT, "c1", ["sleep", "22222"], env=PATH, limits=Limits(grace_seconds=1))
    await asyncio.to_thread(sweep, directory)
    assert await shims.known(ENVIRONMENT) == {"c1": True}


async def test_output_comes_live(directory: Path) -> None:
    """What is printed is seen while the program still runs, not only at its end. (How soon is for `make bench`.)"""
    shims = make(directory)
    seen = asyncio.Event()

    async def on_output(_: int, data: bytes) -> None:
        if b"first" in data:
            seen.set()
            (directory / "workspace" / "go").touch()

    script = "echo first; until [ -e go ]; do sleep 0.01; done; echo last"
    await shims.start(ENVIRONMENT, "c1", ["bash", "-c", script], env=PATH, limits=Limits(seconds=30))
    ended = await shims.wait(ENVIRONMENT, "c1", on_output)
    assert seen.is_set()
    assert ended is not None
    assert (ended.cause, ended.code) == ("exited", 0)
