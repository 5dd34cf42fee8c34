"""``cairn up``, ``down`` and ``status``: the stack on this host."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.embedded import stack_file
from services.command_line import console
from services.command_line.client import nothing_here
from services.command_line.doctor import LONGEST_SILENCE_SECONDS
from services.command_line.failures import FAILED, INVALID, UNREACHABLE, Failure
from services.command_line.options import AsJson, gateway, is_elsewhere

if TYPE_CHECKING:
    from infra.embedded.reload import NotReloaded, Reloading
    from infra.embedded.supervisor import Report
    from infra.settings import Settings

READY_SECONDS = 60.0
STOP_SECONDS = 60.0

Home = Annotated[Path, typer.Option(help="Where everything is kept.", show_default=True)]


def up(
    home: Home = Path(stack_file.HOME_NAME),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Of the HTTP API; 0 takes a free one.")] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart the services whose code changes, while work goes on.")
    ] = False,
) -> None:
    """Start Cairn here, until Ctrl-C.

    Starts nats-server, PostgreSQL and every service, and starts again what dies. Everything is kept in the home.
    """
    from infra.embedded.reload import Reloader
    from infra.embedded.stack import SERVICES, Stack

    home = home.absolute()
    settings, settings_file = _settings(home, port)
    began = time.monotonic()
    reporter = Reporter()
    stack = Stack(home, settings, settings_file=settings_file, report=reporter.hear)
    reloader = Reloader(stack.supervisor, SERVICES, reporter.hear)
    stopping = _on_signals()
    try:
        _start(stack)
        with console.err().status("Starting …"):
            unready = _wait_until_ready(stack, stopping)
        if not stopping.is_set():
            reporter.greet(stack.url, home, time.monotonic() - began, unready)
            if reload:
                reloader.start()
            stopping.wait()
    finally:
        reporter.silence()
        reloader.stop()
        with console.err().status("Stopping …"):
            stack.stop()
    console.say("Stopped. Everything is kept: `cairn up` goes on from here.")


def _start(stack: Any) -> None:
    from infra.embedded.program import StartFailed
    from infra.embedded.stack import CannotStart, PortInUse

    try:
        stack.start()
    except PortInUse as error:
        raise Failure(str(error), exit_code=INVALID) from error
    except (CannotStart, StartFailed) as error:
        raise Failure(str(error), exit_code=FAILED) from error


def _wait_until_ready(stack: Any, stopping: threading.Event) -> list[str]:
    """The names of what is not ready in time; returns early where the user wants to stop."""
    deadline = time.monotonic() + READY_SECONDS
    unready: list[str] = ["everything"]
    while unready and not stopping.is_set() and time.monotonic() < deadline:
        unready = stack.supervisor.wait_until_ready(0.05)
    return unready


def _on_signals() -> threading.Event:
    """An event that Ctrl-C, SIGTERM or the end of the terminal sets."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _settings(home: Path, port: int | None) -> tuple[Settings, Path]:
    """The settings and their file: the one that CAIRN_SETTINGS names, else ``cairn.toml`` beside the home."""
    import msgspec

    from infra.settings import FILE_NAME, SettingsInvalid, load

    named = os.environ.get("CAIRN_SETTINGS")
    file = Path(named).absolute() if named else home.parent / FILE_NAME
    if not named:
        _write_example(file)
    try:
        settings = load(file)
    except SettingsInvalid as error:
        hint = "`cairn doctor` checks the settings without starting anything."
        raise Failure(str(error), hint=hint, exit_code=INVALID) from error
    if port is not None:
        settings = msgspec.structs.replace(settings, gateway=msgspec.structs.replace(settings.gateway, port=port))
    return settings, file


def _write_example(path: Path) -> None:
    from services.command_line.example_settings import EXAMPLE

    if path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(EXAMPLE)
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): choose another place with --home."
        raise Failure(message) from error
    console.note(f"Wrote {path.name}: an example of the settings, with everything commented out.")


class Reporter:
    """Says what happens to the processes, in words; says nothing once it is silenced."""

    def __init__(self) -> None:
        self._silent = threading.Event()
        self._died: set[str] = set()
        self._greeted = threading.Event()

    def silence(self) -> None:
        self._silent.set()

    def hear(self, report: Report | Reloading | NotReloaded) -> None:
        from infra.embedded.reload import NotReloaded, Reloading
        from infra.embedded.supervisor import CannotWrite, Died, Ready, Unready

        if self._silent.is_set():
            return
        match report:
            case Died(name, count, code, wait, detail) if count.bit_count() == 1:  # 1st, 2nd, 4th, 8th …
                self._died.add(name)
                how = "cannot be started" if code is None else f"died ({_ending(code)})"
                again = "started again at once" if wait == 0 else f"is started again in {wait:.1f} s"
                last = f": {console.shortened(detail, 300)}" if detail else ""
                times = f" {count} times in a row" if count > 1 else ""
                console.note(f"{name} {how}{times}{last} — {again}", style="yellow")
            case Ready(name, seconds) if name in self._died:
                self._died.discard(name)
                console.note(f"{name} is back ({seconds:.1f} s)", style="green")
            case Reloading(names, files):
                self._died.update(names)
                console.note(f"{_listed(files)} changed: restarting {', '.join(names)}", style="cyan")
            case NotReloaded(name, files, detail):
                console.note(f"{_listed(files)} changed, but {name} goes on as it was: {detail}", style="red")
            case Unready(name, seconds):
                console.note(f"{name} runs, but has not been ready for {seconds:.0f} s", style="yellow")
            case CannotWrite(name, detail):
                self._died.add(name)
                last = console.shortened(detail, 300)
                console.note(f"{name} cannot write: {last} — started again when there is room", style="red")
            case _:
                pass

    def greet(self, url: str, home: Path, seconds: float, unready: list[str]) -> None:
        if unready:
            console.note(f"Not ready after {seconds:.0f} s: {', '.join(unready)}. Logs: {home / 'logs'}", style="red")
        else:
            console.say(f"Cairn is ready ({seconds:.1f} s)", style="bold green")
        console.fields(
            {
                "  API": f"{url}/api/v1 (key in {home / 'key'})",
                "  logs": str(home / "logs"),
                "  next": 'cairn project add NAME --repo PATH_OR_URL --test-command "…"',
                "": 'cairn task submit NAME "what is to be done" --agent AGENT --wait',
            }
        )
        console.say("Ctrl-C stops it.", style="dim")


def _listed(files: tuple[str, ...]) -> str:
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def down(home: Home = Path(stack_file.HOME_NAME)) -> None:
    """Stop the Cairn that runs here."""
    from infra.embedded.stack import end_leftovers, find_process

    home = home.absolute()
    file = stack_file.read(home)
    if file is None:
        console.say("No Cairn is running here.")
        return
    lock = stack_file.try_lock(home)
    if lock is not None:
        ended = end_leftovers(home)
        console.say(f"The stack had been killed; ended what it had left running: {', '.join(ended) or 'nothing'}.")
        return
    process = find_process(file)
    if process is not None:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    with console.err().status("Stopping …"):
        while stack_file.is_running(home):
            if time.monotonic() > deadline:
                message = f"`cairn up` (process {file.pid}) has not stopped within {STOP_SECONDS:.0f} s."
                raise Failure(message, hint=f"Its logs: {home / 'logs'}")
            time.sleep(0.05)
    console.say("Stopped. Everything is kept: `cairn up` goes on from here.")


def status(context: typer.Context, home: Home = Path(stack_file.HOME_NAME), as_json: AsJson = False) -> None:
    """How the Cairn here and its processes are.

    Where --url or CAIRN_URL names a Cairn, that one, as far as its gateway can tell.
    """
    if is_elsewhere(context):
        with gateway(context) as api:
            _show_status(api.url, _services_status(api.get("/status")), {}, as_json=as_json)
        return
    home = home.absolute() if home.is_dir() else stack_file.find_home(Path.cwd()) or home.absolute()
    file = stack_file.read(home)
    running = file is not None and stack_file.is_running(home)
    if file is None or not running:
        if as_json:
            console.show_json({"running": False, "url": None, "home": str(home), "processes": []})
            raise typer.Exit(UNREACHABLE)
        raise nothing_here()
    processes = [_process_status(home, name, entry) for name, entry in file.processes.items()]
    _show_status(file.url, processes, {"home": str(home), "process": file.pid}, as_json=as_json)


def _show_status(url: str, rows: list[dict[str, Any]], here: dict[str, Any], *, as_json: bool) -> None:
    """``here`` is what only a Cairn of this machine has."""
    if as_json:
        place = {"home": here["home"]} if here else {}
        console.show_json({"running": True, "url": url, **place, "processes": rows})
        return
    console.fields({"URL": url, **here})
    columns = ["name", "state", "pid", "detail"] if here else ["name", "state", "detail"]
    shown = [tuple(row[column] for column in columns) for row in rows]
    names = {"name": "process" if here else "service", "detail": ""}
    console.table([names.get(column, column) for column in columns], shown, empty="No process runs yet.")


def _services_status(status: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each service and worker that the gateway can see."""
    unmet = "; ".join(f"{name}: {reason}" for name, reason in status["unmet"].items())
    rows = [("gateway", not unmet, unmet)]
    for name, taken in (status.get("services") or {}).items():
        rows.append((name, taken, "" if taken else "nobody does its work: look at its log"))
    for host, seconds in (status["hosts"] or {}).items():
        rows.append((f"worker {host}", seconds <= LONGEST_SILENCE_SECONDS, f"last heard {seconds:g} s ago"))
    return [{"name": name, "state": "ready" if well else "not ready", "detail": said} for name, well, said in rows]


def _process_status(home: Path, name: str, entry: stack_file.StackProcess) -> dict[str, Any]:
    from infra.embedded.service_program import read_run_file, unready_reason
    from infra.embedded.stack import SERVERS, find_process

    state, detail = "ready", ""
    if find_process(entry) is None:
        state, detail = "stopped", "not running; it is being started again"
    elif name not in SERVERS:
        run_file = read_run_file(home, name)
        detail = "starting" if run_file is None else unready_reason(run_file)
        state = "not ready" if detail else "ready"
    return {"name": name, "state": state, "pid": entry.pid, "detail": detail}
