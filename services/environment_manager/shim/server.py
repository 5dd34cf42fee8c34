"""The shim itself: serves the socket, forks a keeper for each call. See the package for the whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import selectors
import signal
import socket
import stat
import sys
import time

from services.environment_manager.shim import (
    CALL_VARIABLE,
    CALLS,
    DIRECTORY_VARIABLE,
    EGRESS_SOCKET,
    ENVIRONMENT_VARIABLE,
    LOCK,
    LOCKED,
    RELAY_VARIABLE,
    SOCKET,
    Json,
)
from services.environment_manager.shim.keeper import KEEPER_SIGNALS, keeper_main
from services.environment_manager.shim.process_tree import (
    SET_CHILD_SUBREAPER,
    SET_NO_NEW_PRIVS,
    SET_PDEATHSIG,
    descendants,
    prctl,
    send_signal,
)
from services.environment_manager.shim.wakeup import Wakeup

# How often the shim looks whether its directory is still there.
DIRECTORY_CHECK_SECONDS = 5.0
STRAY_SECONDS = 5.0
REQUEST_LIMIT_BYTES = 16 * 1024 * 1024

_CALL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\Z")


class Shim:
    """Serves the socket, forks keepers, tells watchers. One thread; nothing in its loop waits for long."""

    def __init__(self, directory: str, listener: socket.socket, directory_fd: int) -> None:
        self.directory = directory
        self.directory_fd = directory_fd
        self.listener = listener
        self.keepers: dict[int, str] = {}  # pid of the keeper → call
        self.watchers: dict[str, list[socket.socket]] = {}
        self.received: dict[socket.socket, bytearray] = {}
        self.closing = False
        self.selector = selectors.DefaultSelector()
        self.wakeup = Wakeup((signal.SIGCHLD, signal.SIGTERM))
        self.inherited: dict[str, str] = {}  # below what an order says: what the image of a container sets
        # A warm container learns only by its orders which environment it became.
        known = (name for name in (ENVIRONMENT_VARIABLE, DIRECTORY_VARIABLE) if name in os.environ)
        self.markers = {name: os.environ[name] for name in known}
        self.contained = False
        self.relay = 0  # the pid of the relay, in a container that reaches outward

    def serve(self) -> None:
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wakeup.fd, selectors.EVENT_READ)
        while not (self.closing and not self.keepers):
            for key, _ in self.selector.select(DIRECTORY_CHECK_SECONDS):
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj == self.wakeup.fd:
                    self.on_signals(self.wakeup.read())
                elif isinstance(key.fileobj, socket.socket):
                    self.receive(key.fileobj)
            try:
                os.stat(SOCKET, dir_fd=self.directory_fd)
            except FileNotFoundError:
                self.close()
        self.end_strays()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET, dir_fd=self.directory_fd)

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self.received[connection] = bytearray()
            self.selector.register(connection, selectors.EVENT_READ)

    def receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer = self.received[connection]
        buffer += data
        if not data or len(buffer) > REQUEST_LIMIT_BYTES:
            self.drop(connection)
            return
        while connection in self.received and b"\n" in buffer:
            line, _, rest = buffer.partition(b"\n")
            buffer[:] = rest
            self.answer(connection, line)

    def answer(self, connection: socket.socket, line: bytearray) -> None:
        try:
            request = json.loads(line)
            operation = {"start": self.start, "interrupt": self.interrupt, "list": self.running, "close": self.close}
            if request["op"] == "watch":
                self.watch(connection, request["call"])
            else:
                self.send(connection, operation[request["op"]](request) or {})
        except (ValueError, KeyError, TypeError) as error:
            self.send(connection, {"error": f"not a request: {error!r}", "kind": "refused"})

    def send(self, connection: socket.socket, message: Json) -> None:
        try:
            connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.drop(connection)

    def drop(self, connection: socket.socket) -> None:
        if self.received.pop(connection, None) is not None:
            self.selector.unregister(connection)
            connection.close()
        for watching in self.watchers.values():
            if connection in watching:
                watching.remove(connection)

    def start(self, order: Json) -> Json | None:
        if self.closing:
            return {"error": "The environment is being closed.", "kind": "refused"}
        if not _CALL_NAME.match(order["call"]) or not order["argv"]:
            return {"error": "A call needs a plain name and a command.", "kind": "refused"}
        order["contained"] = self.contained
        order["env"] = {**self.inherited, **order["env"], **self.markers, CALL_VARIABLE: order["call"]}
        folder = os.path.join(self.directory, CALLS, order["call"])
        try:
            os.mkdir(folder)
        except FileExistsError:
            return {"started": False}
        except OSError as error:
            return {"error": f"{folder}: {error.strerror}", "kind": "flinched"}
        try:
            with open(os.path.join(folder, "request.json"), "w") as file:
                json.dump({**order, "env": sorted(order["env"])}, file)
            self.fork_keeper(order)
        except OSError as error:
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
            return {"error": f"{folder}: {error.strerror}", "kind": "flinched"}
        return {"started": True}

    def fork_keeper(self, order: Json) -> None:
        shim = os.getpid()
        # Blocked, so that no signal is lost between the fork and the keeper's own wakeup.
        signal.pthread_sigmask(signal.SIG_BLOCK, KEEPER_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                keeper_main(shim, order, self.directory)
            self.keepers[pid] = order["call"]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, KEEPER_SIGNALS)

    def interrupt(self, request: Json) -> None:
        for pid, call in self.keepers.items():
            if call == request["call"]:
                os.kill(pid, signal.SIGTERM)  # Our own child, not yet reaped: the number cannot be another's.

    def running(self, _: object) -> Json:
        return {"running": list(self.keepers.values())}

    def watch(self, connection: socket.socket, call: str) -> None:
        running = call in self.keepers.values()
        if running:
            self.watchers.setdefault(call, []).append(connection)
        self.send(connection, {"running": running})

    def close(self, _: object = None) -> None:
        if not self.closing:
            self.closing = True
            for pid in self.keepers:
                os.kill(pid, signal.SIGHUP)

    def on_signals(self, numbers: set[int]) -> None:
        if signal.SIGTERM in numbers:
            self.close()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.keepers:
                self.on_keeper_ended(pid, status)

    def on_keeper_ended(self, pid: int, status: int) -> None:
        call = self.keepers.pop(pid)
        if status != 0:
            self.end_strays()
        for connection in self.watchers.pop(call, ()):
            self.send(connection, {"exit": call})

    def end_strays(self) -> None:
        """End what a keeper left that was killed. Zombies are no matter: ``on_signals`` reaps them."""
        give_up = time.monotonic() + STRAY_SECONDS
        while strays := descendants({os.getpid()}, without={*self.keepers, self.relay}):
            for process in strays:
                send_signal(process, signal.SIGKILL)
            if time.monotonic() > give_up:  # One that waits for a disk cannot be killed.
                return
            time.sleep(0.005)


def serve(directory: str, ready: int, *, in_container: bool = False) -> int:
    """Become the shim of ``directory``; write a byte, the exit code of the command, to ``ready`` when that is known."""
    with contextlib.suppress(PermissionError):  # The first process of a container leads a session already.
        os.setsid()
    os.umask(0o077)
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600, dir_fd=directory_fd)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(ready, bytes([LOCKED]))
        return LOCKED
    os.chmod(directory_fd, stat.S_IRWXU)
    with contextlib.suppress(FileExistsError):
        os.mkdir(CALLS, dir_fd=directory_fd)
    prctl(SET_CHILD_SUBREAPER, 1)
    prctl(SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET, dir_fd=directory_fd)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{directory_fd}/{SOCKET}")  # An address holds 107 bytes, a path of ours may be longer.
    listener.listen(128)
    listener.setblocking(False)
    shim = Shim(directory, listener, directory_fd)
    if in_container:
        shim.contained = True
        if RELAY_VARIABLE in os.environ:
            shim.relay = fork_relay(directory)
        # The interpreter sets LC_CTYPE for itself (PEP 538).
        shim.inherited = {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}
    os.write(ready, b"\0")
    os.close(ready)
    shim.serve()
    return 0


def fork_relay(directory: str) -> int:
    from services.environment_manager.shim.relay import relay

    del os.environ[RELAY_VARIABLE]
    pid = os.fork()
    if pid == 0:
        try:
            prctl(SET_PDEATHSIG, signal.SIGKILL)
            relay(os.path.join(directory, EGRESS_SOCKET))
        finally:
            os._exit(1)
    return pid


def main_in_container() -> None:
    """The first process of a container: it serves until its directory is closed, and the container ends with it."""
    directory = sys.argv[1]
    os.environ[DIRECTORY_VARIABLE] = directory
    sys.exit(serve(directory, os.open(os.devnull, os.O_WRONLY), in_container=True))


def main() -> None:
    directory = os.path.realpath(sys.argv[1])
    os.environ.setdefault(ENVIRONMENT_VARIABLE, os.path.basename(directory))
    os.environ.setdefault(DIRECTORY_VARIABLE, directory)
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        sys.exit(serve(directory, write))
    os.close(write)
    sys.exit((os.read(read, 1) or b"\1")[0])
