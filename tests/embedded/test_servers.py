"""The embedded servers: they come back on the same address with what they kept, however they ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import nats
import pytest
from nats.errors import Error as NatsError

from infra.embedded.nats_server import NatsServer
from infra.embedded.postgres_server import PostgresServer, binary
from infra.embedded.program import StartFailed

pytestmark = pytest.mark.integration

# Tells which program serves, as whom, and what it answers.
CLOSED = """
import asyncio, sys
from pathlib import Path
import asyncpg, psutil
from infra.embedded.postgres_server import PostgresServer, binary

async def ask(url):
    connection = await asyncpg.connect(url)
    answer = await connection.fetchval("SELECT 7")
    await connection.close()
    return answer

with PostgresServer(Path(sys.argv[1])).start() as server:
    print(binary("postgres"), psutil.Process(server.pid).username(), asyncio.run(ask(server.url)))
"""


def is_given_away(port: int) -> bool:
    """Whether a program that wants any port, and no certain one, could be given this one."""
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class TestNats:
    async def test_keeps_address_and_messages_over_a_kill(self, tmp_path: Path) -> None:
        """After kill -9 the same URL serves what was acknowledged."""
        with NatsServer(tmp_path / "nats").start() as server:
            url = server.url
            client = await nats.connect(url)
            stream = client.jetstream()
            await stream.add_stream(name="KEPT", subjects=["kept.>"])
            await stream.publish("kept.1", b"one")
            await client.close()
            server.kill()
            server.start()
            assert server.url == url
            client = await nats.connect(url)
            assert (await client.jetstream().get_msg("KEPT", seq=1)).data == b"one"
            await client.close()

    def test_keeps_its_ports_while_it_is_away(self, tmp_path: Path) -> None:
        """Nobody else is given them before its start or between two, until it is closed; itself it can have them."""
        server = NatsServer(tmp_path)
        ports = [int((tmp_path / name).read_text()) for name in ("port", "monitor-port")]
        assert len(set(ports)) == 2
        for _ in range(2):
            assert [port for port in ports if is_given_away(port)] == []
            server.start()
            server.kill()
        server.close()
        unused = NatsServer(tmp_path / "unused")
        unused.close()
        assert is_given_away(int(unused.url.rpartition(":")[2]))

    async def test_wants_its_password(self, tmp_path: Path) -> None:
        """Another user of the host, who does not know the password, is refused."""
        with NatsServer(tmp_path).start() as server:
            stranger = "nats://" + server.url.rpartition("@")[2]
            with pytest.raises(NatsError):
                await nats.connect(stranger, allow_reconnect=False, max_reconnect_attempts=0, error_cb=_ignore)

    @pytest.mark.parametrize(("sync_always", "expected"), [(True, True), (False, False)])
    def test_durability_is_as_asked(self, tmp_path: Path, sync_always: bool, expected: bool) -> None:
        """`sync_interval: always` stands on a line of its own, or not at all."""
        server = NatsServer(tmp_path, sync_always=sync_always)
        server.launch()
        lines = [line.strip() for line in (tmp_path / "nats-server.conf").read_text().splitlines()]
        assert ("sync_interval: always" in lines) == expected

    def test_takes_another_port_where_its_own_is_taken(self, tmp_path: Path) -> None:
        """A port that somebody else took meanwhile does not stop the next start."""
        with NatsServer(tmp_path).start() as server:
            first = server.url
        port = int(first.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)), NatsServer(tmp_path).start() as server:
            assert server.url != first

    def test_a_failed_start_says_why(self, tmp_path: Path) -> None:
        """The message names the log and holds its end."""
        server = NatsServer(tmp_path)
        port = int(server.url.rpartition(":")[2])
        taken = socket.create_server(("127.0.0.1", port))
        with taken, pytest.raises(StartFailed, match="address already in use"):
            server.start()


class TestPostgres:
    async def test_keeps_rows_over_a_kill(self, tmp_path: Path) -> None:
        """After kill -9 of the server the same URL serves what was committed."""
        with PostgresServer(tmp_path / "postgres").start() as server:
            connection = await asyncpg.connect(server.url)
            await connection.execute("CREATE TABLE kept (value integer); INSERT INTO kept VALUES (7)")
            await connection.close()
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            server.wait_for_exit()
            assert server.reap() == -signal.SIGKILL
            _start_again(server)
            connection = await asyncpg.connect(server.url)
            assert await connection.fetchval("SELECT value FROM kept") == 7
            assert await connection.fetchval("SHOW fsync") == "on"
            await connection.close()

    async def test_a_long_path_and_strange_characters(self, tmp_path: Path) -> None:
        """A socket's path is limited to 107 bytes; the home's is not, and may hold blanks and signs."""
        home = tmp_path / ("a long & strange folder, " * 6)
        home.mkdir()
        with PostgresServer(home).start() as server:
            connection = await asyncpg.connect(server.url)
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()

    def test_below_a_directory_that_is_closed_to_others(self, tmp_path: Path) -> None:
        """Its programs and its files may lie where only their owner gets to, as below a home of mode 0700, and nothing
        is opened to others for it. Started by root, the server is still no process of root's."""
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        installed = binary("postgres").parents[2]
        for part in installed.parent.glob(f"{installed.name}*"):  # Its libraries lie beside it.
            shutil.copytree(part, closed / part.name, copy_function=os.link, symlinks=True)
        told = subprocess.run(
            (sys.executable, "-c", CLOSED, str(closed / "home")),
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(closed), *filter(None, sys.path)))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        program, user, answer = told.stdout.split()
        assert program.startswith(str(closed))
        assert answer == "7"
        assert user != "root"
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_stops_while_sessions_are_open(self, tmp_path: Path) -> None:
        """A session that its client keeps open does not hold the shutdown up, and nothing is left running."""
        server = PostgresServer(tmp_path).start()
        assert server.stop() == 0
        assert server.pid is None
        assert not (tmp_path / "data-18" / "postmaster.pid").exists()

    def test_the_pid_of_a_killed_server_belongs_to_another_process(self, tmp_path: Path) -> None:
        """A pid file whose number was given to something else meanwhile does not keep the server from starting."""
        server = PostgresServer(tmp_path).start()
        pid_file = tmp_path / "data-18" / "postmaster.pid"
        content = pid_file.read_text().splitlines()
        server.kill()
        pid_file.write_text("\n".join([str(os.getpid()), *content[1:]]) + "\n")
        server.start()
        server.stop()

    def test_an_interrupted_first_start(self, tmp_path: Path) -> None:
        """Files that a killed first start left half made are made again."""
        unfinished = tmp_path / "unfinished"
        unfinished.mkdir()
        (unfinished / "PG_VERSION").write_text("18\n")
        PostgresServer(tmp_path).start().stop()
        assert (tmp_path / "data-18" / "PG_VERSION").exists()


def _start_again(server: PostgresServer) -> None:
    """The processes of a killed server need a moment to notice; until then a new one is refused."""
    for _ in range(50):
        try:
            server.start()
        except StartFailed:
            continue
        return
    server.start()


async def _ignore(_: Exception) -> None:
    """nats-py prints tracebacks where nobody takes its errors."""
