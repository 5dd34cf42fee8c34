"""A worker: takes jobs, does them, and shows life while it does. ``SLOTS`` jobs at a time.

It knows nothing of other workers and keeps nothing: one that is killed and started again just asks for work. An answer
that got lost is asked for again; a job that was given to somebody else meanwhile is dropped.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

from scheduler.client import ApiAway, ApiRefused, ask

BEAT_SECONDS = 1.0
IDLE_SECONDS = 0.2


def execute(work: dict[str, object]) -> str:
    """The SHA-256 of the work's text, after a while. Doing it twice does no harm."""
    time.sleep(float(str(work["seconds"])))
    text = str(work["text"])
    if text.startswith("fail:"):
        raise ValueError(text)
    return hashlib.sha256(text.encode()).hexdigest()


class Worker:
    def __init__(self, api: str, name: str) -> None:
        self._url = f"{api}/workers/{name}"
        self._name = name
        self._held: dict[str, int] = {}
        self.stopping = threading.Event()

    def run(self, slots: int) -> None:
        """Work until asked to stop; jobs that have begun are finished."""
        threads = [threading.Thread(target=self._work) for _ in range(slots)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._tell("beat", {"held": list(self._held.items())})
            self.stopping.wait(BEAT_SECONDS)

    def _work(self) -> None:
        while not self.stopping.is_set():
            job = self._tell("take", {})
            if not job:
                self.stopping.wait(IDLE_SECONDS)
                continue
            attempt = {"id": job["id"], "attempt": job["attempt"]}
            self._held[job["id"]] = job["attempt"]
            try:
                result = execute(job["work"])
                self._insist("finish", {**attempt, "result": result})
            except ValueError as error:
                self._insist("fail", {**attempt, "error": str(error)})
            finally:
                self._held.pop(job["id"], None)

    def _tell(self, what: str, body: dict[str, object]) -> dict[str, object] | None:
        try:
            return ask("POST", f"{self._url}/{what}", body)
        except (ApiAway, ApiRefused) as error:
            print(f"{what}: {error}", flush=True)
            return None

    def _insist(self, what: str, body: dict[str, object]) -> None:
        """Say it until it is heard."""
        while True:
            try:
                ask("POST", f"{self._url}/{what}", body)
            except ApiAway as error:
                print(f"{what}: {error}", flush=True)
                time.sleep(IDLE_SECONDS)
            except ApiRefused as error:
                print(f"{body['id']} is dropped: {error}", flush=True)
                return
            else:
                return


def main() -> None:
    worker = Worker(os.environ["API_URL"], os.environ["WORKER_NAME"])
    signal.signal(signal.SIGTERM, lambda number, frame: worker.stopping.set())
    worker.run(int(os.environ.get("SLOTS", "2")))


if __name__ == "__main__":
    main()
