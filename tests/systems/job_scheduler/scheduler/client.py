"""Asking the API. As a program it asks one URL and fails where the answer is no: a health check."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.request
from typing import Any

ANSWER_SECONDS = 3.0


class ApiAway(Exception):
    """It does not answer, or cannot do so now; what was asked may or may not have happened."""


class ApiRefused(Exception):
    """It says no."""


def ask(method: str, url: str, body: object = None) -> Any:
    """The document that the API answers. Raises ``ApiAway``, ``ApiRefused``."""
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        message = f"{error.code} {error.read().decode(errors='replace')}"
        raise (ApiAway if error.code >= 500 else ApiRefused)(message) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ApiAway(f"no answer of {url}: {error}") from error


if __name__ == "__main__":
    try:
        ask("GET", sys.argv[1])
    except (ApiAway, ApiRefused) as error:
        sys.exit(str(error))
