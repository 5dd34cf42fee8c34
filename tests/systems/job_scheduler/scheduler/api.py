"""The API: what people ask of the queue, and what workers do.

| request | answer |
| --- | --- |
| ``PUT /jobs/ID`` with the work | 200, the job; saying it again changes nothing |
| ``GET /jobs/ID``, ``GET /jobs`` | 200, the job, all jobs; 404 |
| ``GET /status`` | 200, counts by state, workers with what they hold |
| ``GET /health``, ``GET /workers/NAME`` | 200 while the database answers, while the worker lives; else 503 |
| ``POST /workers/NAME/take`` | 200, a job, or null |
| ``POST /workers/NAME/beat`` with ``held``, pairs of job and attempt | 200 |
| ``POST /workers/NAME/finish`` with ``id``, ``attempt``, ``result`` | 200; 409 where the job is not held any more |
| ``POST /workers/NAME/fail`` with ``id``, ``attempt``, ``error`` | 200 |

While the database is away every answer is 503.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scheduler.jobs import Conflict, Queue, Unknown
from scheduler.postgres import Database, DatabaseAway, DatabaseRefused

PORT = 8000
SWEEP_SECONDS = 0.5
LONGEST_BODY_BYTES = 65536
NAME = "[A-Za-z0-9._-]{1,80}"


class WorkerAway(Exception):
    """The worker was not heard of lately."""


STATUS = {
    KeyError: 400,
    TypeError: 400,
    ValueError: 400,
    Unknown: 404,
    Conflict: 409,
    DatabaseRefused: 500,
    WorkerAway: 503,
    DatabaseAway: 503,
}


def answer(queue: Queue, method: str, path: str, body: Any) -> Any:
    """What a request leads to. Raises one of ``STATUS``."""
    match method, path.strip("/").split("/"):
        case "PUT", ["jobs", id] if re.fullmatch(NAME, id):
            return queue.submit(id, {"text": str(body["text"]), "seconds": float(body.get("seconds", 0))})
        case "GET", ["jobs"]:
            return queue.jobs()
        case "GET", ["jobs", id]:
            return queue.job(id)
        case "GET", ["status"]:
            return queue.status()
        case "GET", ["health"]:
            queue.workers()
            return {"healthy": True}
        case "GET", ["workers", name]:
            for worker in queue.workers():
                if worker["name"] == name and worker["live"]:
                    return worker
            raise WorkerAway(f"{name} is away")
        case "POST", ["workers", name, "take"] if re.fullmatch(NAME, name):
            return queue.take(name)
        case "POST", ["workers", name, "beat"] if re.fullmatch(NAME, name):
            return queue.beat(name, [(id, int(attempt)) for id, attempt in body["held"]])
        case "POST", ["workers", name, "finish"]:
            return queue.finish(name, body["id"], int(body["attempt"]), body["result"])
        case "POST", ["workers", name, "fail"]:
            return queue.fail(name, body["id"], int(body["attempt"]), body["error"])
    raise Unknown(f"there is no {method} {path}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece
    queue: Queue

    def _answer(self) -> None:
        try:
            status, document = 200, answer(self.queue, self.command, self.path, self._body())
        except tuple(STATUS) as error:
            status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
            document = {"error": str(error)}
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = _answer  # noqa: N815  # the names that http.server looks for

    def _body(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST_BODY_BYTES:
            self.close_connection = True
            raise ValueError(f"a body of {length} bytes is too long; {LONGEST_BODY_BYTES} are taken")
        return json.loads(self.rfile.read(length) or "{}")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: workers ask all the time."""


def sweep(queue: Queue) -> None:
    """Queue again what lapsed, for ever."""
    while True:
        time.sleep(SWEEP_SECONDS)
        try:
            for job in queue.requeue_lapsed():
                print(f"{job['id']} is {job['state']} again: {job['worker']} is away", flush=True)
        except (DatabaseAway, DatabaseRefused) as error:
            print(error, file=sys.stderr, flush=True)


def main() -> None:
    queue = Queue(Database(os.environ["DATABASE_URL"]), time.time)
    while True:
        try:
            queue.prepare()
            break
        except DatabaseAway as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(0.5)
    threading.Thread(target=sweep, args=(queue,), daemon=True).start()
    Handler.queue = queue
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    print(f"listening on port {PORT}", flush=True)
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
