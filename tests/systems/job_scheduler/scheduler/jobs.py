"""The queue: jobs and workers in a database, each operation one statement.

A job is ``queued``, ``running``, ``done`` or ``failed``. A worker that takes a job holds it for a lease, which its
heartbeats extend; a lease that lapses is taken from it, and the job is queued again. Every taking has a number, the
job's ``attempt``: what a worker says of an attempt that is no longer the present one is refused. So a job may be
executed more than once, and ends once. Jobs must bear that.

Times are seconds since 1970 by the clock of the API, of which there is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

LEASE_SECONDS = 3.0
RETRY_SECONDS = 0.5  # before the second attempt; twice as long before each further one
MOST_ATTEMPTS = 5
LIVE_SECONDS = 3.0  # a worker that was not heard of for longer is away

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS jobs (
        id text PRIMARY KEY, work text NOT NULL, state text NOT NULL, attempt integer NOT NULL,
        due double precision NOT NULL, worker text, lease_until double precision, result text, error text)""",
    "CREATE INDEX IF NOT EXISTS queued ON jobs (state, due)",
    "CREATE TABLE IF NOT EXISTS workers (name text PRIMARY KEY, since double precision, seen double precision)",
)
FIELDS = "id, work, state, attempt, worker, result, error"
# The job $1 in the attempt $2, which the worker $3 holds at this moment.
HELD = "WHERE id = $1 AND attempt = $2 AND worker = $3 AND state = 'running'"
AGAIN = f"CASE WHEN attempt < {MOST_ATTEMPTS} THEN 'queued' ELSE 'failed' END"

Row = dict[str, Any]


class Rows(Protocol):
    """What executes a statement with ``$1``, ``$2`` … and answers its rows."""

    def run(self, statement: str, *parameters: object) -> list[Row]: ...


class Conflict(Exception):
    """The job is not in a state for this."""


class Unknown(Exception):
    """There is no such job."""


class Queue:
    """``clock`` answers the time."""

    def __init__(self, database: Rows, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def prepare(self) -> None:
        """Make the tables where there are none."""
        for statement in SCHEMA:
            self._database.run(statement)

    # ---- for those who have work

    def submit(self, id: str, work: Row) -> Row:
        """Queue a job. Saying it again changes nothing. Raises ``Conflict`` where ``id`` is other work."""
        text = json.dumps(work, sort_keys=True)
        self._database.run(
            "INSERT INTO jobs (id, work, state, attempt, due) VALUES ($1, $2, 'queued', 0, $3) ON CONFLICT DO NOTHING",
            *(id, text, self._clock()),
        )
        job = self.job(id)
        if job["work"] != work:
            raise Conflict(f"job {id} is there already, with other work")
        return job

    def job(self, id: str) -> Row:
        rows = self._database.run(f"SELECT {FIELDS} FROM jobs WHERE id = $1", id)
        if not rows:
            raise Unknown(f"there is no job {id}")
        return _shown(rows[0])

    def jobs(self) -> list[Row]:
        return [_shown(row) for row in self._database.run(f"SELECT {FIELDS} FROM jobs ORDER BY id")]

    def status(self) -> Row:
        """How many jobs are in each state, and of each worker whether it lives and which jobs it holds."""
        counts = dict.fromkeys(("queued", "running", "done", "failed"), 0)
        held: dict[str, list[str]] = {}
        for row in self._database.run("SELECT state, count(*) AS jobs FROM jobs GROUP BY state"):
            counts[row["state"]] = row["jobs"]
        for row in self._database.run("SELECT id, worker FROM jobs WHERE state = 'running' ORDER BY id"):
            held.setdefault(row["worker"], []).append(row["id"])
        workers = [{**worker, "holds": held.get(worker["name"], [])} for worker in self.workers()]
        return {"jobs": counts, "workers": workers}

    # ---- for workers

    def take(self, worker: str) -> Row | None:
        """Lease the job that has been due for longest, if there is one that nobody else takes at this moment."""
        now = self._clock()
        rows = self._database.run(
            f"""UPDATE jobs SET state = 'running', attempt = attempt + 1, worker = $1, lease_until = $2
                WHERE state = 'queued' AND id = (
                    SELECT id FROM jobs WHERE state = 'queued' AND due <= $3 ORDER BY due, id LIMIT 1)
                RETURNING {FIELDS}""",
            *(worker, now + LEASE_SECONDS, now),
        )
        return _shown(rows[0]) if rows else None

    def beat(self, worker: str, held: list[tuple[str, int]]) -> None:
        """A worker shows life: it is known from now on, and keeps the (job, attempt) pairs that it holds."""
        now = self._clock()
        self._database.run(
            """INSERT INTO workers (name, since, seen) VALUES ($1, $2, $2)
               ON CONFLICT (name) DO UPDATE SET seen = excluded.seen,
                   since = CASE WHEN workers.seen < $3 THEN excluded.seen ELSE workers.since END""",
            *(worker, now, now - LIVE_SECONDS),
        )
        for id, attempt in held:
            self._database.run(f"UPDATE jobs SET lease_until = $4 {HELD}", id, attempt, worker, now + LEASE_SECONDS)

    def finish(self, worker: str, id: str, attempt: int, result: str) -> None:
        """The job is done. Saying it again changes nothing. Raises ``Conflict`` where it is not held any more."""
        done = self._database.run(
            f"UPDATE jobs SET state = 'done', result = $4, error = NULL {HELD} RETURNING id",
            *(id, attempt, worker, result),
        )
        job = self.job(id)
        if not done and (job["state"], job["attempt"]) != ("done", attempt):
            raise Conflict(f"attempt {attempt} at job {id} is not {worker}'s any more")

    def fail(self, worker: str, id: str, attempt: int, error: str) -> None:
        """The attempt failed: the job is tried again a while later, at most ``MOST_ATTEMPTS`` times."""
        due = self._clock() + RETRY_SECONDS * 2 ** (attempt - 1)
        statement = f"UPDATE jobs SET state = {AGAIN}, due = $4, error = $5 {HELD}"
        self._database.run(statement, id, attempt, worker, due, error)

    def requeue_lapsed(self) -> list[Row]:
        """Take the jobs whose lease lapsed from their workers and queue them again, where they were in the line;
        answers them."""
        rows = self._database.run(
            f"""UPDATE jobs SET state = {AGAIN}, error = 'its worker was not heard of any more'
                WHERE state = 'running' AND lease_until < $1 RETURNING {FIELDS}""",
            self._clock(),
        )
        return [_shown(row) for row in rows]

    def workers(self) -> list[Row]:
        """Every worker that was ever heard of; ``since`` is when it joined, or came back."""
        live = self._clock() - LIVE_SECONDS
        rows = self._database.run("SELECT name, since, seen FROM workers ORDER BY name")
        return [{"name": row["name"], "since": row["since"], "live": row["seen"] >= live} for row in rows]


def _shown(row: Row) -> Row:
    return {**row, "work": json.loads(row["work"])}
