"""Which hosts are there: each environment-manager gives signs of life, and whoever depends on one looks for them.

A host is gone when it has been silent for as long as a lease lasts. Whoever says so must have been connected for long
enough itself: when everything was cut off and comes back, those who live get the chance to be heard first. A host that
only cannot be reached is taken for gone as well; what keeps it from harm is the log, where it can append nothing to
what others have taken over.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from events.errors import CairnError
from events.preflight import Preflights, Sign
from infra.ports import Clock, HostRegistry, HostSign

logger = structlog.get_logger()

SIGNS_A_LEASE = 5
POLL_SECONDS = 0.2

_decoder = msgspec.json.Decoder(Sign)


class Hosts:
    """The hosts as ``own`` sees them."""

    def __init__(self, registry: HostRegistry, clock: Clock, *, own: str, lease_seconds: float) -> None:
        self.own = own
        self._registry = registry
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._connected_at = clock.now()

    def reconnected(self) -> None:
        """The connection came back: what was silent before may be heard again."""
        self._connected_at = self._clock.now()

    async def announce(self, sign: Callable[[], Sign] = Sign) -> None:
        """Give signs of life, for ever, with what there is to tell of this host."""
        while True:
            self._registry.announce(self.own, msgspec.json.encode(sign()))
            await self._clock.sleep(self._lease_seconds / SIGNS_A_LEASE)

    async def is_gone(self, host: str) -> bool:
        """Whether ``host`` must be counted as lost. Raises ``Transient``."""
        if host == self.own:
            return False
        connected_seconds = (self._clock.now() - self._connected_at).total_seconds()
        if connected_seconds < self._lease_seconds * 2 / SIGNS_A_LEASE:
            return False
        return await self._registry.silent_seconds(host) > self._lease_seconds

    async def is_heard(self, host: str) -> bool:
        """Whether ``host`` gave a sign of life lately: the own one too, whose environment-manager may be away. Raises
        ``Transient``."""
        return await self._registry.silent_seconds(host) <= self._lease_seconds * 2 / SIGNS_A_LEASE

    async def settled_gone(self, host: str) -> bool:
        """As ``is_gone``, but where it has fallen silent only just now, wait until that is known."""
        while not await self.is_gone(host):
            if host == self.own or await self.is_heard(host):
                return False
            await self._clock.sleep(POLL_SECONDS)
        logger.warning("a host is gone", host=host, silent_seconds=round(await self._registry.silent_seconds(host), 1))
        return True

    async def living(self) -> list[str]:
        """The hosts that are there, the one heard last first; none where that cannot be seen."""
        return list(await self._living())

    async def preflights(self) -> Preflights:
        """What the hosts that are there found out about the programs of agents; nothing where that cannot be seen."""
        return {host: _decoder.decode(sign.note).programs for host, sign in (await self._living()).items() if sign.note}

    async def _living(self) -> dict[str, HostSign]:
        try:
            signs = await self._registry.all()
        except CairnError as error:
            logger.warning("hosts unknown", error=str(error))
            return {}
        living = [(host, sign) for host, sign in signs.items() if sign.silent_seconds <= self._lease_seconds]
        return dict(sorted(living, key=lambda item: item[1].silent_seconds))
