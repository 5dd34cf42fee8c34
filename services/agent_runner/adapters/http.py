"""HTTP to a model's provider: one pool of connections for all models of a process, no retries.

``post`` answers with whatever status the provider gave; only that no answer came at all is an error here. The
client is imported and made at the first request, so that a worker without such models never pays for it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec

from services.agent_runner.ports import ModelRefused, ModelUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 600.0
KEEP_ALIVE_SECONDS = 30.0


class Reply(msgspec.Struct, frozen=True):
    """``headers`` have names in lower case; ``body`` is as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def retry_after_seconds(self) -> float | None:
        """What ``retry-after`` (seconds or a date, RFC 9110 section 10.2.3) or ``retry-after-ms`` asks for."""
        milliseconds = _number(self.headers.get("retry-after-ms", ""))
        if milliseconds is not None:
            return milliseconds / 1000
        value = self.headers.get("retry-after", "")
        seconds = _number(value)
        return seconds if seconds is not None else _seconds_until(value)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Http:
    def __init__(
        self,
        *,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._client: httpx2.AsyncClient | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send ``body`` as JSON. Raises ``ModelUnavailable`` where no answer came, ``ModelRefused`` for a bad URL."""
        import httpx2

        client = self._client or self._open()
        try:
            response = await client.post(url, content=body, headers={"content-type": "application/json", **headers})
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            message = f"{url!r} is no URL to send requests to ({error}): correct the agent's base_url."
            raise ModelRefused(message, slug="request-invalid") from error
        except httpx2.TimeoutException as error:
            message = f"{url} did not answer in time ({type(error).__name__})."
            raise ModelUnavailable(message, cause="timeout") from error
        except httpx2.RequestError as error:
            message = f"{url} cannot be reached: {str(error) or type(error).__name__}."
            raise ModelUnavailable(message, cause="network") from error
        lowered = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status_code, lowered, response.content)

    async def close(self) -> None:
        """Close the connections. The next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _open(self) -> httpx2.AsyncClient:
        import httpx2

        timeout = httpx2.Timeout(self._read_timeout_seconds, connect=self._connect_timeout_seconds, pool=None)
        limits = httpx2.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS)
        self._client = httpx2.AsyncClient(timeout=timeout, limits=limits)
        return self._client
