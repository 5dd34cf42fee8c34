"""Load for the scheduler, and whether it kept its promise: every job that was taken is done, once, with its result.

    python3 -m scheduler.load submit --jobs 24 --seconds 0.5     submits them and returns
    python3 -m scheduler.load check --jobs 24 --within 20        waits until they are done; names those that are not
    python3 -m scheduler.load run --jobs 24 --seconds 0.5        both, and samples the API all the while

Prints one JSON document; the exit code is 1 where a job is lost or an answer was wrong. Jobs are numbered from 1 behind
``--prefix``, and what each must result in is known, so that nothing has to be remembered between two commands.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from typing import Any

from scheduler.client import ApiAway, ApiRefused, ask

SAMPLE_SECONDS = 0.1


class Load:
    """Jobs that were submitted, and what the API was seen to say of them.

    ``wrong`` are answers that contradict the promise or an earlier answer, ``away`` counts those that did not come,
    ``workers`` are those that each job was seen with.
    """

    def __init__(self, url: str, prefix: str, count: int) -> None:
        self._url = url
        self._ids = [f"{prefix}-{number:03}" for number in range(1, count + 1)]
        self.jobs: dict[str, dict[str, Any]] = {}
        self.workers: dict[str, list[str]] = {}
        self.wrong: list[str] = []
        self.samples = self.away = 0

    def submit(self, seconds: float) -> None:
        """Every job until it is taken; a second time does no harm."""
        for id in self._ids:
            while True:
                try:
                    ask("PUT", f"{self._url}/jobs/{id}", {"text": id, "seconds": seconds})
                    break
                except ApiAway:
                    self.away += 1
                    time.sleep(SAMPLE_SECONDS)

    def sample(self) -> bool:
        """Look at all jobs and at the status once; True when everything is done."""
        self.samples += 1
        try:
            jobs = {job["id"]: job for job in ask("GET", f"{self._url}/jobs")}
            status = ask("GET", f"{self._url}/status")
        except ApiAway:
            self.away += 1
            return False
        if sum(status["jobs"].values()) < len(jobs):
            self.wrong.append(f"the status counts {status['jobs']}, and there are {len(jobs)} jobs")
        for id in self._ids:
            self._compare(id, self.jobs.get(id), jobs.get(id))
        self.jobs = {id: jobs[id] for id in self._ids if id in jobs}
        return not self.lost()

    def _compare(self, id: str, before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
        if now is None:
            if before:
                self.wrong.append(f"{id} was there and is not any more")
            return
        if before and before["state"] == "done" and before != now:
            self.wrong.append(f"{id} was done and changed: {before} → {now}")
        if before and now["attempt"] < before["attempt"]:
            self.wrong.append(f"{id} was in attempt {before['attempt']} and is in {now['attempt']}")
        if now["state"] == "done" and now["result"] != hashlib.sha256(id.encode()).hexdigest():
            self.wrong.append(f"{id} has a wrong result, {now['result']}")
        if now["worker"] and now["worker"] not in self.workers.setdefault(id, []):
            self.workers[id].append(now["worker"])

    def lost(self) -> list[str]:
        """The jobs that are not done, each with where it is."""
        return [_where(id, self.jobs.get(id)) for id in self._ids if self.jobs.get(id, {}).get("state") != "done"]

    def wait(self, within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        while not self.sample() and time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)

    def report(self) -> dict[str, Any]:
        return {
            "jobs": len(self._ids),
            "done": len(self._ids) - len(self.lost()),
            "lost": self.lost(),
            "reassigned": {id: workers for id, workers in self.workers.items() if len(workers) > 1},
            "wrong": self.wrong,
            "samples": self.samples,
            "away": self.away,
        }


def _where(id: str, job: dict[str, Any] | None) -> str:
    return f"{id} (unknown)" if job is None else f"{id} ({job['state']}, attempt {job['attempt']}, {job['worker']})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Load for the job scheduler.")
    parser.add_argument("what", choices=("submit", "check", "run"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--prefix", default="load")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each job takes")
    parser.add_argument("--within", type=float, default=30.0, help="how long to wait for all of them")
    asked = parser.parse_args()
    load = Load(asked.url, asked.prefix, asked.jobs)
    try:
        if asked.what != "check":
            load.submit(asked.seconds)
        if asked.what != "submit":
            load.wait(asked.within)
    except ApiRefused as error:
        sys.exit(f"the API refused: {error}")
    if asked.what == "submit":
        print(json.dumps({"submitted": asked.jobs}))
        return
    print(json.dumps(load.report(), indent=2))
    sys.exit(1 if load.lost() or load.wrong else 0)


if __name__ == "__main__":
    main()
