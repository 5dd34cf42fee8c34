"""The shim and its adapter with real processes, real signals and real deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from events.errors import Permanent
from infra.redaction import Redactor
from services.environment_manager.adapters.processes import READ_BYTES, ShimProcesses, sweep
from services.environment_manager.ports import Exit, Limits
from services.environment_manager.shim import DIRECTORY_VARIABLE
from services.environment_manager.shim.process_tree import descendants, processes, send_signal

pytestmark = pytest.mark.integration

ENVIRONMENT = "shop-1-development"
PATH = {"PATH": os.environ["PATH"]}
REPOSITORY = Path(__file__).parents[2]


def left(directory: Path) -> list[int]:
    """Every live process that carries the directory's marker or descends from one that does."""
    marker = f"{DIRECTORY_VARIABLE}={directory.resolve()}".encode()
    found = []
    for pid in processes():
        try:
            if marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return sorted({*found, *(pid for pid, _ in descendants(found))})


def shim_pid(directory: Path) -> int:
    """The shim is the marked process that no marked process started."""
    marked = set(left(directory))
    alive = processes()
    (pid,) = [pid for pid in marked if pid in alive and alive[pid][0] not in marked]
    return pid


def processes_named(text: str) -> list[int]:
    found = []
    for pid in processes():
        try:
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def printed_by(directory: Path, call: str) -> bytes:
    """What a call has printed so far."""
    path = directory / "calls" / call / "output"
    return path.read_bytes() if path.exists() else b""


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        await asyncio.sleep(0.01)


def make(directory: Path) -> ShimProcesses:
    (directory / "workspace").mkdir(parents=True, exist_ok=True)
    return ShimProcesses(lambda _: directory)


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    """An environment's directory; whatever runs in it is ended afterwards."""
    yield tmp_path
    if (tmp_path / "shim.lock").exists():
        await ShimProcesses(lambda _: tmp_path).close(ENVIRONMENT)
    assert left(tmp_path) == []


async def run(shims: ShimProcesses, call: str, *argv: str, limits: Limits | None = None) -> tuple[Exit | None, bytes]:
    await shims.start(ENVIRONMENT, call, argv, env=PATH, limits=limits or Limits(grace_seconds=2))
    return await wait(shims, call)


async def wait(shims: ShimProcesses, call: str) -> tuple[Exit | None, bytes]:
    """How a call ended, and what it printed from its first byte on."""
    printed = bytearray()

    async def on_output(offset: int, data: bytes) -> None:
        assert len(printed) == offset, "a piece is missing, or came twice"
        printed.extend(data)

    return await shims.wait(ENVIRONMENT, call, on_output), bytes(printed)


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
    ended, printed = await run(shims, "c1", sys.executable, "-c", DAEMONS, "88888")
    assert ended is not None
    assert (ended.cause, ended.code, printed) == ("exited", 0, b"gone\n")
    assert ended.duration_ms < 3000
    assert processes_named("88888") == []
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
    """Its own session, no core files, /dev/null as input, no other descriptor, no privileges to gain."""
    script = "env | cut -d= -f1 | sort | tr '\\n' ' '; ulimit -c; ls /proc/self/fd | wc -l; cat; pwd; umask"
    script += "; grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status"
    _, printed = await run(make(directory), "c1", "bash", "-c", script)
    lines = printed.decode().splitlines()
    assert lines[0].split() == [
        "CAIRN_CALL", "CAIRN_ENVIRONMENT", "CAIRN_ENVIRONMENT_DIRECTORY", "PATH", "PWD", "SHLVL", "_", "0",
    ]  # fmt: skip
    assert lines[1:4] == ["4", str(directory / "workspace"), "0022"]
    assert [line.split()[1] for line in lines[4:]] == ["0" * 16, "0" * 16, "1"]


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


async def test_another_client_adopts_a_running_call(directory: Path) -> None:
    """A new object, as after a restart, sees the whole output from its first byte, and the end."""
    first = make(directory)
    argv = ["bash", "-c", "for i in {1..20}; do echo line $i; sleep 0.03; done; exit 5"]
    await first.start(ENVIRONMENT, "c1", argv, env=PATH, limits=Limits())
    await asyncio.sleep(0.2)
    second = make(directory)
    await second.ready(ENVIRONMENT)
    assert await second.known(ENVIRONMENT) == {"c1": True}
    ended, printed = await wait(second, "c1")
    assert ended is not None
    assert ended.code == 5
    assert printed.decode().splitlines() == [f"line {i}" for i in range(1, 21)]
    assert ended == await first.wait(ENVIRONMENT, "c1")


CLIENT = """
import asyncio, os, sys
from pathlib import Path
from services.environment_manager.adapters.processes import ShimProcesses
from services.environment_manager.ports import Limits

async def main():
    shims = ShimProcesses(lambda _: Path(sys.argv[1]))
    argv = ["bash", "-c", "for i in {1..50}; do echo line $i; sleep 0.02; done; exit 7"]
    await shims.start("shop-1-development", "c1", argv, env={"PATH": os.environ["PATH"]}, limits=Limits())
    await shims.wait("shop-1-development", "c1", on_output)

async def on_output(offset, data):
    print("seen", flush=True)

asyncio.run(main())
"""


async def test_a_call_outlives_the_client_that_was_killed(directory: Path) -> None:
    """kill -9 in the middle: the next one has the complete output in order and the exit status."""
    shims = make(directory)
    client = subprocess.Popen(  # noqa: ASYNC220 - killed at once
        [sys.executable, "-c", CLIENT, str(directory)], cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True
    )
    assert client.stdout is not None
    await asyncio.to_thread(client.stdout.readline)
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    client.stdout.close()
    ended, printed = await wait(shims, "c1")
    assert ended is not None
    assert (ended.cause, ended.code) == ("exited", 7)
    assert printed.decode().splitlines() == [f"line {i}" for i in range(1, 51)]


@pytest.mark.parametrize("also_keepers", [False, True])
async def test_a_killed_shim_leaves_nothing_running(directory: Path, also_keepers: bool) -> None:
    """What ran is unknown (None), ended, daemons too; what had ended is still known; a new shim starts."""
    shims = make(directory)
    done, _ = await run(shims, "c0", "true")
    argv = ["bash", "-c", "setsid sleep 99999 & trap '' TERM; echo up; while :; do sleep 0.1; done"]
    await shims.start(ENVIRONMENT, "c1", argv, env=PATH, limits=Limits())
    waiting = asyncio.ensure_future(shims.wait(ENVIRONMENT, "c1"))
    await until(lambda: printed_by(directory, "c1"))
    shim = shim_pid(directory)
    alive = processes()
    keepers = [pid for pid, (parent, _) in alive.items() if parent == shim]
    assert len(keepers) == 1
    for pid in [shim, *(keepers if also_keepers else [])]:
        send_signal((pid, alive[pid][1]), signal.SIGKILL)
    assert await waiting is None
    assert left(directory) == []
    assert processes_named("99999") == []
    assert await shims.known(ENVIRONMENT) == {"c0": False, "c1": False}
    assert await shims.wait(ENVIRONMENT, "c0") == done
    assert await shims.wait(ENVIRONMENT, "c1") is None
    again, _ = await run(shims, "c2", "true")
    assert again is not None


async def test_a_killed_keeper_leaves_nothing_running(directory: Path) -> None:
    """The shim ends what the keeper kept, however well that hid, and says that the call's end is unknown."""
    shims = make(directory)
    argv = ["bash", "-c", "(env -i setsid sleep 55555 &) ; trap '' TERM; echo up; while :; do sleep 0.1; done"]
    await shims.start(ENVIRONMENT, "c1", argv, env=PATH, limits=Limits())
    await until(lambda: printed_by(directory, "c1") and processes_named("55555"))
    shim = shim_pid(directory)
    (keeper,) = [pid for pid, (parent, _) in processes().items() if parent == shim]
    os.kill(keeper, signal.SIGKILL)
    assert await shims.wait(ENVIRONMENT, "c1") is None
    assert processes_named("55555") == []
    assert left(directory) == [shim]


async def test_ready_after_the_shim_died_ends_what_it_left(directory: Path) -> None:
    """Before anything new is started, leftovers of the shim before are gone."""
    shims = make(directory)
    await shims.start(ENVIRONMENT, "c1", ["sleep", "44444"], env=PATH, limits=Limits())
    os.kill(shim_pid(directory), signal.SIGKILL)
    await shims.ready(ENVIRONMENT)
    assert processes_named("44444") == []
    assert len(left(directory)) == 1


async def test_the_shim_ends_with_its_directory(directory: Path) -> None:
    """An environment that is removed behind its back takes its processes with it."""
    shims = make(directory)
    await shims.start(ENVIRONMENT, "c1", ["sleep", "33333"], env=PATH, limits=Limits(grace_seconds=1))
    (directory / "shim.sock").unlink()
    await until(lambda: not left(directory), 15)


async def test_a_deep_directory_works(tmp_path: Path) -> None:
    """The address of a socket is short, a path may be long."""
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    shims = make(directory)
    ended, printed = await run(shims, "c1", "echo", "deep")
    await shims.close(ENVIRONMENT)
    assert printed == b"deep\n"
    assert ended is not None
    assert left(directory) == []


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
    """At 10,000 lines a second, a line is seen within 100 ms of being printed (p99)."""
    program = textwrap.dedent("""
        import sys, time
        begin = time.time()
        for tick in range(100):
            sys.stdout.write("".join(f"{time.time()} {tick * 100 + i}\\n" for i in range(100)))
            sys.stdout.flush()
            time.sleep(max(0, begin + (tick + 1) / 100 - time.time()))
    """)
    shims = make(directory)
    delays: list[float] = []
    rest = b""

    async def on_output(_: int, data: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + data).split(b"\n")
        now = time.time()
        delays.extend(now - float(line.split()[0]) for line in lines)

    await shims.start(ENVIRONMENT, "c1", [sys.executable, "-c", program], env=PATH, limits=Limits())
    await shims.wait(ENVIRONMENT, "c1", on_output)
    assert len(delays) == 10_000
    delays.sort()
    print(f"median {delays[5000] * 1000:.1f} ms, p99 {delays[9900] * 1000:.1f} ms")
    assert delays[9900] < 0.1


async def test_a_round_trip_is_short(directory: Path) -> None:
    """Start and end of ``true`` take a few milliseconds (the bound leaves room for a busy machine)."""
    shims = make(directory)
    begin = time.perf_counter()
    await shims.ready(ENVIRONMENT)
    print(f"ready {(time.perf_counter() - begin) * 1000:.1f} ms")
    took = []
    for number in range(40):
        begin = time.perf_counter()
        await run(shims, f"c{number}", "/bin/true")
        took.append(time.perf_counter() - begin)
    took.sort()
    print(f"median {took[20] * 1000:.1f} ms, longest {took[-1] * 1000:.1f} ms")
    assert took[10] < 0.06
