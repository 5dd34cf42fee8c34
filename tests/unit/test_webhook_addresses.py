"""Which addresses a webhook may lead to, and what its secrets look like."""

from __future__ import annotations

import base64
import ipaddress

import pytest

from services.notifier.adapters.addresses import AddressRefused, allowed_address, is_public
from services.notifier.adapters.standard_webhooks import SecretInvalid, keys_of


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_public_addresses_are_allowed(address: str) -> None:
    """Addresses of the public internet, also where they are written as IPv6."""
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_inner_addresses_are_refused(address: str) -> None:
    """Loopback, private, link-local, shared and multicast ones, also where they hide in an IPv6 address."""
    assert not is_public(ipaddress.ip_address(address))


async def test_a_name_is_refused_by_its_address() -> None:
    """A name that leads inside is refused, unless that is allowed; one without an address is refused always."""
    with pytest.raises(AddressRefused, match="no public address"):
        await allowed_address("localhost", 80, allow_private=False)
    assert await allowed_address("localhost", 80, allow_private=True) in ("127.0.0.1", "::1")
    with pytest.raises(AddressRefused, match="cannot be resolved"):
        await allowed_address("no-such-host.invalid", 80, allow_private=True)


def secret(length: int) -> str:
    return "whsec_" + base64.b64encode(bytes(length)).decode()


def test_a_secret_may_hold_several_keys() -> None:
    """Keys are separated by spaces."""
    assert keys_of(f"{secret(24)} {secret(64)}\n") == [bytes(24), bytes(64)]


@pytest.mark.parametrize("text", ["", "plain", "whsec_", "whsec_!!!!", secret(23), secret(65), secret(24)[6:]])
def test_a_bad_secret_is_not_repeated(text: str) -> None:
    """The message says what a secret looks like, and not what was there."""
    with pytest.raises(SecretInvalid) as raised:
        keys_of(text)
    assert text == "" or text.removeprefix("whsec_") == "" or text not in str(raised.value)
