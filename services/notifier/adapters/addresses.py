"""Where a webhook may lead: the guard against requests to addresses inside our own network (SSRF).

A name is resolved once, every address it has must be public, and the connection goes to one of these addresses and
not to the name again, so that a second resolution cannot answer differently.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Translates IPv4 for hosts that have only IPv6 (RFC 6052); the last 32 bits are the address that is reached.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(Exception):
    """The host has no address, or one that a webhook may not lead to."""


async def allowed_address(host: str, port: int, *, allow_private: bool) -> str:
    """An address of ``host`` to connect to. Raises ``AddressRefused``."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"the host {host} cannot be resolved: {error}"
        raise AddressRefused(message) from error
    addresses = [str(item[4][0]) for item in found]
    if not allow_private:
        for address in addresses:
            if not is_public(ipaddress.ip_address(address)):
                message = f"the host {host} is {address}, no public address (see allow_private_addresses)"
                raise AddressRefused(message)
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address, or the IPv4 address that it stands for, is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast
