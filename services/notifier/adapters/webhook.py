"""Webhooks over HTTP, signed by Standard Webhooks.

One POST an attempt, 15 seconds at most, no redirects: 2xx is an arrival, 410 ends the delivery, everything else is
a refusal that is tried again. It goes straight to the resolved address: a proxy of the environment is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import msgspec

from events.delivery import DeliveryPlanned
from events.errors import Permanent
from infra.ports import Clock
from infra.settings import Webhook
from services.notifier.adapters.addresses import AddressRefused, allowed_address
from services.notifier.adapters.standard_webhooks import SecretInvalid, headers, keys_of
from services.notifier.ports import Answer, Arrived, Gone, Refused

if TYPE_CHECKING:
    import httpx2

TIME_LIMIT_SECONDS = 15.0
SHOWN_BYTES = 300


class WebhookSender:
    """Sends to the webhooks of the settings; ``resolve`` gives the secret that a reference stands for."""

    def __init__(
        self,
        tenant: str,
        webhooks: Mapping[str, Webhook],
        resolve: Callable[[str], str],
        clock: Clock,
        *,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
    ) -> None:
        self._tenant = tenant
        self._webhooks = webhooks
        self._resolve = resolve
        self._clock = clock
        self._time_limit_seconds = time_limit_seconds
        self._client: httpx2.AsyncClient | None = None

    async def send(self, delivery_id: str, planned: DeliveryPlanned) -> Answer:
        webhook = self._webhooks.get(planned.receiver)
        if webhook is None:
            return Gone(f"the settings have no webhook {planned.receiver} any more")
        body = body_of(self._tenant, planned)
        try:
            keys = keys_of(self._resolve(webhook.secret))
        except (Permanent, SecretInvalid) as error:
            return Refused(f"it cannot be signed: {error}")
        signed = headers(delivery_id, self._clock.now(), body, keys)
        try:
            async with asyncio.timeout(self._time_limit_seconds):
                return await self._post(webhook, body, signed)
        except TimeoutError:
            return Refused(f"no answer within {self._time_limit_seconds:g} seconds")
        except AddressRefused as error:
            return Refused(str(error))

    async def _post(self, webhook: Webhook, body: bytes, signed: Mapping[str, str]) -> Answer:
        import httpx2  # It takes 60 ms to import, and most installations have no webhook.

        url = urlsplit(webhook.url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        address = await allowed_address(host, port, allow_private=webhook.allow_private_addresses)
        if self._client is None:
            # No connection is kept: one to an address that two hosts share was proven to belong to one of them only.
            self._client = httpx2.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                timeout=self._time_limit_seconds,
                limits=httpx2.Limits(max_keepalive_connections=0),
            )
        try:
            async with self._client.stream(
                "POST",
                _at_address(url, address, port),
                content=body,
                headers={
                    "host": url.netloc,
                    "content-type": "application/json",
                    "user-agent": "cairn",
                    **signed,
                },
                extensions={"sni_hostname": host},
            ) as response:
                return await _answer(response, self._clock.now())
        except httpx2.RequestError as error:
            return Refused(f"{host} could not be reached: {str(error) or type(error).__name__}")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def body_of(tenant: str, planned: DeliveryPlanned) -> bytes:
    """The message, the same over all attempts: ``type``, ``timestamp`` and ``data``."""
    return msgspec.json.encode(
        {
            "type": planned.event_type,
            "timestamp": planned.occurred_at,
            "data": {
                "tenant": tenant,
                "sequence": planned.sequence,
                "entity": planned.subject_entity,
                "id": planned.subject_id,
                "title": planned.title,
                "body": planned.body,
            },
        }
    )


def _at_address(url: SplitResult, address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return url._replace(netloc=f"{host}:{port}", fragment="").geturl()


async def _answer(response: httpx2.Response, now: datetime) -> Answer:
    if response.is_success:
        return Arrived()
    if response.status_code == 410:
        return Gone("the receiver answered 410 Gone: take this webhook out of the settings")
    if response.is_redirect:
        detail = f"answered {response.status_code}; redirects are not followed"
    else:
        detail = f"answered {response.status_code} {await _shown(response)}".rstrip()
    return Refused(detail, _retry_after_seconds(response.headers.get("retry-after", ""), now))


async def _shown(response: httpx2.Response) -> str:
    """The beginning of the answer's body, as one line."""
    read = b""
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) >= SHOWN_BYTES:
            break
    return " ".join(read[:SHOWN_BYTES].decode(errors="replace").split())


def _retry_after_seconds(value: str, now: datetime) -> float:
    """The Retry-After header, seconds or a date (RFC 9110, 10.2.3), as seconds from now; 0 where there is none."""
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())
