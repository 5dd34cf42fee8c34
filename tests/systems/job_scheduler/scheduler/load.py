"""Load for the scheduler, and whether it keeps its promise: every job that it took is done, once, with its result.

    python3 -m scheduler.load submit --jobs 24 --seconds 0.5     submits jobs and returns
    python3 -m scheduler.load check --within 20                  waits until every job is done; names those that are not
    python3 -m scheduler.load run --jobs 24 --seconds 0.5        both, and samples the API all the while

Prints one JSON document. The exit code is 1 where a job is lost, or an answer contradicts the promise or an earlier
answer. What a job must result in follows from its work, so that nothing has to be remembered between two commands.
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
    """What the API was seen to say of its jobs: ``jobs`` as they were last (None: submitted and not seen yet),
    ``workers`` those that each was with, ``wrong`` what cannot be, ``away`` how often no answer came."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.jobs: dict[str, dict[str, Any] | None] = {}
        self.workers: dict[str, list[str]] = {}
        self.wrong: list[str] = []
        self.samples = self.away = 0

    def submit(self, prefix: str, count: int, seconds: float) -> None:
        """Say each job until it is taken; a second time does no harm. Samples meanwhile."""
        sampled = time.monotonic()
        for number in range(1, count + 1):
            id = f"{prefix}-{number:03}"
            self.jobs[id] = None
            while True:
                try:
                    ask("PUT", f"{self._url}/jobs/{id}", {"text": id, "seconds": seconds})
                    break
                except ApiAway:
                    self.away += 1
                    time.sleep(SAMPLE_SECONDS)
            if time.monotonic() - sampled >= SAMPLE_SECONDS:
                self._sample()
                sampled = time.monotonic()

    def wait(self, within_seconds: float) -> None:
        """Sample until every job is done, or the time is over."""
        deadline = time.monotonic() + within_seconds
        while not self._sample() and time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)

    def _sample(self) -> bool:
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
        for id in self.jobs.keys() - jobs.keys():
            self.wrong.append(f"{id} was taken and is not known any more")
        for id, job in jobs.items():
            self._compare(id, self.jobs.get(id), job)
        self.jobs = jobs
        return not self.lost()

    def _compare(self, id: str, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
        if before and before["state"] == "done" and before != now:
            self.wrong.append(f"{id} was done and changed: {before} → {now}")
        if before and now["attempt"] < before["attempt"]:
            self.wrong.append(f"{id} was in attempt {before['attempt']} and is in {now['attempt']}")
        if now["state"] == "done" and now["result"] != hashlib.sha256(now["work"]["text"].encode()).hexdigest():
            self.wrong.append(f"{id} has a wrong result, {now['result']}")
        if now["worker"] and now["worker"] not in self.workers.setdefault(id, []):
            self.workers[id].append(now["worker"])

    def lost(self) -> list[str]:
        """The jobs that are not done, each with where it is."""
        return [_where(id, job) for id, job in self.jobs.items() if job is None or job["state"] != "done"]

    def report(self) -> dict[str, Any]:
        lost = self.lost()
        return {
            "jobs": len(self.jobs),
            "done": len(self.jobs) - len(lost),
            "samples": self.samples,
            "away": self.away,
            "reassigned": {id: workers for id, workers in self.workers.items() if len(workers) > 1},
            "wrong": self.wrong,
            "lost": lost,
        }


def _where(id: str, job: dict[str, Any] | None) -> str:
    return f"{id} (unknown)" if job is None else f"{id} ({job['state']}, attempt {job['attempt']}, {job['worker']})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Load for the job scheduler.")
    parser.add_argument("what", choices=("submit", "check", "run"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--prefix", default=f"load-{int(time.time())}", help="of the jobs' names; new ones each time")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each job takes")
    parser.add_argument("--within", type=float, default=30.0, help="how long to wait for all of them")
    asked = parser.parse_args()
    load = Load(asked.url)
    try:
        if asked.what != "check":
            load.submit(asked.prefix, asked.jobs, asked.seconds)
        if asked.what != "submit":
            load.wait(asked.within)
    except ApiRefused as error:
        sys.exit(f"the API refused: {error}")
    if asked.what == "submit":
        print(json.dumps({"submitted": asked.jobs, "prefix": asked.prefix}))
        return
    report = load.report()
    print(json.dumps(report))
    sys.exit(1 if report["lost"] or report["wrong"] or load.away == load.samples else 0)


if __name__ == "__main__":
    main()
