"""The past over HTTP: of this installation, or of a bundle that was imported into it (``imported/NAME``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from services.command_line.client import Gateway
from services.command_line.failures import INVALID, NOT_FOUND, Failure

PAGE = 500
IMPORTED = "imported/"
BOARD = "board"


class Located(msgspec.Struct, frozen=True):
    """Where ``id`` is to be asked for: ``prefix`` stands before the addresses."""

    prefix: str
    id: str


def located(api: Gateway, id: str) -> Located:
    """``imported/NAME`` is the run of that import, ``imported/NAME/ID`` anything else in it."""
    if not id.startswith(IMPORTED):
        return Located("", id)
    name, _, inner = id.removeprefix(IMPORTED).partition("/")
    found = next((row for row in api.items("/imports") if row["name"] == name), None)
    if found is None:
        message = f"Nothing is imported as {name!r}."
        raise Failure(message, hint="See `cairn imports`.", exit_code=NOT_FOUND)
    return Located(f"/imports/{name}", inner or found["run"])


class Past:
    """A run, a task, or the whole board. ``kind`` is which of them. Every method raises ``Failure``."""

    def __init__(self, api: Gateway, id: str) -> None:
        self._api = api
        self._where = located(api, id)
        self.id = self._where.id
        self.kind = self._kind()

    def at(self, moment: str) -> dict[str, Any]:
        """The state at a sequence or time; the present where that is empty."""
        path = "/replay/board" if self.kind == BOARD else f"/replay/{self.kind}/{self.id}"
        found: dict[str, Any] = self._api.get(self._where.prefix + path, at=moment)
        return found

    def steps(self) -> Iterator[dict[str, Any]]:
        """What happened, a decision at a time: for a run also in its environment, for a task also what was done for
        it, for the board in all projects and tasks."""
        selection = {"entity": "task"} if self.kind == BOARD else {self.kind: self.id}
        after: int | None = 0
        while after is not None:
            page = self._api.get(f"{self._where.prefix}/events", after=after, limit=PAGE, **selection)
            yield from page["items"]
            after = page["next"]

    def diff(self, moment: str, *, run: str = "", since: int | None = None) -> str:
        """What the run's step at that moment changed, or all that it changed after ``since``."""
        path = f"{self._where.prefix}/runs/{run or self._run()}/diff"
        return self._api.raw(path, at=moment, since=since).decode(errors="replace")

    def workspace(self, moment: str) -> bytes:
        """The workspace of the run as it was, as a tar archive."""
        return self._api.raw(f"{self._where.prefix}/runs/{self._run()}/workspace", at=moment)

    def content(self, digest: str) -> str:
        return self._api.raw(f"{self._where.prefix}/content/{digest}").decode(errors="replace")

    def _run(self) -> str:
        if self.kind != "run":
            message = f"{self.id} is a {self.kind}, and a workspace belongs to a run: name one of its runs."
            raise Failure(message, hint=f"See `cairn task show {self.id}`.", exit_code=INVALID)
        return self.id

    def _kind(self) -> str:
        if self.id == BOARD:
            return BOARD
        try:
            self._api.get(f"{self._where.prefix}/replay/task/{self.id}")
        except Failure as failure:
            if failure.exit_code != NOT_FOUND:
                raise
            self._api.get(f"{self._where.prefix}/replay/run/{self.id}")
            return "run"
        return "task"
