"""The rules of the queue, over a database in memory: ``python3 -m unittest`` in the folder above."""

from __future__ import annotations

import sqlite3
import unittest
from typing import Any

from scheduler.api import answer
from scheduler.jobs import LEASE_SECONDS, LIVE_SECONDS, MOST_ATTEMPTS, Conflict, Queue, Unknown

WORK = {"text": "hello", "seconds": 0.0}


class Sqlite:
    """SQLite understands the same statements; it calls their parameters by names."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.row_factory = sqlite3.Row

    def run(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        named = {str(number): value for number, value in enumerate(parameters, 1)}
        return [dict(row) for row in self._connection.execute(statement, named)]


class Jobs(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.queue = Queue(Sqlite(), lambda: self.now)
        self.queue.prepare()

    def states(self) -> dict[str, str]:
        return {job["id"]: job["state"] for job in self.queue.jobs()}

    def take(self, worker: str) -> dict[str, Any]:
        job = self.queue.take(worker)
        assert job is not None
        return job

    def test_submitting_twice(self) -> None:
        """The same job is queued once; another one of that name is refused."""
        self.queue.submit("a", WORK)
        self.queue.submit("a", WORK)
        self.assertEqual({"a": "queued"}, self.states())
        with self.assertRaises(Conflict):
            self.queue.submit("a", {**WORK, "text": "other"})

    def test_a_job_is_taken_once(self) -> None:
        """The oldest first, each by one worker, until there is none."""
        for id in ("b", "a"):
            self.queue.submit(id, WORK)
            self.now += 1
        self.assertEqual(["b", "a"], [self.take("w1")["id"], self.take("w2")["id"]])
        self.assertIsNone(self.queue.take("w3"))

    def test_finished_once(self) -> None:
        """A result is kept; saying it again is no error."""
        self.queue.submit("a", WORK)
        self.take("w1")
        self.queue.finish("w1", "a", 1, "result")
        self.queue.finish("w1", "a", 1, "result")
        job = self.queue.job("a")
        self.assertEqual(("done", "result"), (job["state"], job["result"]))

    def test_heartbeats_hold_a_job(self) -> None:
        """A lease does not lapse while its worker shows life."""
        self.queue.submit("a", WORK)
        self.take("w1")
        for _ in range(5):
            self.now += LEASE_SECONDS * 0.9
            self.queue.beat("w1", [("a", 1)])
            self.assertEqual([], self.queue.requeue_lapsed())

    def test_a_lapsed_lease(self) -> None:
        """A job whose worker is silent is queued again, before later ones; what that worker says of it is refused."""
        self.queue.submit("a", WORK)
        self.take("w1")
        self.now += LEASE_SECONDS + 0.1
        self.queue.submit("b", WORK)
        self.assertEqual(["a"], [job["id"] for job in self.queue.requeue_lapsed()])
        again = self.take("w2")
        self.assertEqual(("a", 2), (again["id"], again["attempt"]))
        with self.assertRaises(Conflict):
            self.queue.finish("w1", "a", 1, "late")
        self.queue.fail("w1", "a", 1, "late")
        self.queue.beat("w1", [("a", 1)])
        self.queue.finish("w2", "a", 2, "result")
        self.assertEqual("result", self.queue.job("a")["result"])

    def test_retries(self) -> None:
        """A job that fails is tried again later each time, and fails for good in the end."""
        self.queue.submit("a", WORK)
        for attempt in range(1, MOST_ATTEMPTS + 1):
            self.assertEqual(attempt, self.take("w1")["attempt"])
            self.queue.fail("w1", "a", attempt, "broken")
            self.assertIsNone(self.queue.take("w1"))
            self.now += 60
        self.assertEqual({"a": "failed"}, self.states())

    def test_status(self) -> None:
        """Who lives and who holds what is told; a worker that comes back has joined anew."""
        self.queue.submit("a", WORK)
        self.queue.submit("b", WORK)
        self.queue.beat("w1", [])
        self.take("w1")
        status = self.queue.status()
        self.assertEqual({"queued": 1, "running": 1, "done": 0, "failed": 0}, status["jobs"])
        self.assertEqual([{"name": "w1", "since": 1000.0, "live": True, "holds": ["a"]}], status["workers"])
        self.now += LIVE_SECONDS + 1
        self.assertFalse(self.queue.workers()[0]["live"])
        self.queue.beat("w1", [])
        self.assertEqual([{"name": "w1", "since": self.now, "live": True}], self.queue.workers())


class Api(unittest.TestCase):
    def setUp(self) -> None:
        self.queue = Queue(Sqlite(), lambda: 0.0)
        self.queue.prepare()

    def test_a_job_from_end_to_end(self) -> None:
        """What people and a worker ask, one after the other."""
        answer(self.queue, "PUT", "/jobs/a", {"text": "hello"})
        job = answer(self.queue, "POST", "/workers/w1/take", {})
        answer(self.queue, "POST", "/workers/w1/finish", {"id": job["id"], "attempt": 1, "result": "result"})
        self.assertEqual("done", answer(self.queue, "GET", "/jobs/a", {})["state"])
        self.assertEqual(1, answer(self.queue, "GET", "/status", {})["jobs"]["done"])

    def test_what_is_not_there(self) -> None:
        """An unknown job, path or name is said to be so."""
        for method, path in (("GET", "/jobs/a"), ("GET", "/nothing"), ("PUT", "/jobs/a%20b")):
            with self.assertRaises(Unknown):
                answer(self.queue, method, path, {})


if __name__ == "__main__":
    unittest.main()
