"""Restarts the services whose code changed, while the work of the others and of their processes goes on.

A change is tried out first: the services that it concerns are imported in a process of their own. Only if that works
are they stopped, gracefully, and started again; else the old ones go on, and what is wrong is reported. What could
not be loaded is tried again with the next change.

Limits: what changes in the code of the stack itself (``infra/embedded``) or of the command line takes effect when it
is started the next time; a shim that runs goes on with the code that it was started with.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from events import subjects
from infra.embedded.supervisor import Supervisor

CODE = Path(__file__).resolve().parents[2]
PACKAGES = ("events", "infra", "projections", "services")
SUFFIXES = (".py", ".sql")
# Several files are often written one after another.
DEBOUNCE_MS = 300
TRY_SECONDS = 60.0

USE_PROJECTIONS = frozenset({subjects.PROJECTOR, subjects.GATEWAY})


class Reloading(msgspec.Struct, frozen=True):
    """``files`` changed, and the services ``names`` are restarted."""

    names: tuple[str, ...]
    files: tuple[str, ...]


class NotReloaded(msgspec.Struct, frozen=True):
    """``files`` changed, and the service ``name`` cannot be loaded with that: the old one goes on."""

    name: str
    files: tuple[str, ...]
    detail: str


def concerned(file: Path, services: Mapping[str, str], code: Path = CODE) -> frozenset[str]:
    """The services (name → module) that a changed ``file`` of the code concerns."""
    try:
        package, *rest = file.relative_to(code).parts
    except ValueError:
        return frozenset()
    if file.suffix not in SUFFIXES or package not in PACKAGES:
        return frozenset()
    if package == "projections":
        return USE_PROJECTIONS & services.keys()
    if package == "services" and len(rest) > 1:
        return frozenset(name for name, module in services.items() if module == f"services.{rest[0]}")
    if package == "infra" and rest[0] == "embedded":
        return frozenset()
    return frozenset(services)


class Reloader:
    """Watches the code and restarts the ``services`` (name → module) of ``supervisor``."""

    def __init__(
        self,
        supervisor: Supervisor,
        services: Mapping[str, str],
        report: Callable[[Reloading | NotReloaded], None],
    ) -> None:
        self._supervisor = supervisor
        self._services = services
        self._report = report
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)
        self._pending: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        from watchfiles import watch

        folders = [CODE / package for package in PACKAGES]
        for changes in watch(*folders, stop_event=self._stopping, debounce=DEBOUNCE_MS, raise_interrupt=False):
            self.changed({Path(path) for _, path in changes})

    def changed(self, files: Iterable[Path]) -> None:
        """Restart what the changed ``files`` concern, and what could not be loaded before."""
        relevant = {file: names for file in files if (names := concerned(file, self._services))}
        if not relevant:
            return
        shown = tuple(sorted(str(file.relative_to(CODE)) for file in relevant))
        wanted = self._pending.union(*relevant.values())
        loadable = set()
        for name in sorted(wanted):
            wrong = self._try(name)
            if wrong:
                self._report(NotReloaded(name, shown, wrong))
            else:
                loadable.add(name)
        self._pending = wanted - loadable
        if loadable:
            self._report(Reloading(tuple(sorted(loadable)), shown))
            self._supervisor.restart(sorted(loadable))

    def _try(self, name: str) -> str:
        """Import the service in a process of its own; answers what is wrong with it, or nothing."""
        launch = self._supervisor.keepers[name].program.launch()
        interpreter = launch.argv[: launch.argv.index("-m")]
        try:
            done = subprocess.run(
                [*interpreter, "-c", f"import {self._services[name]}.__main__"],
                env={**os.environ, **launch.environment},
                cwd=launch.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TRY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it was not imported within {TRY_SECONDS:.0f} s"
        return "" if done.returncode == 0 else _last_words(done.stderr)


def _last_words(stderr: str) -> str:
    """Where the import failed, and why: the last place that the traceback names, and its last line."""
    lines = [line.strip() for line in stderr.strip().splitlines()]
    place = next((line for line in reversed(lines) if line.startswith("File ")), "")
    return f"{lines[-1] if lines else 'it could not be imported'}{f' ({place})' if place else ''}"
