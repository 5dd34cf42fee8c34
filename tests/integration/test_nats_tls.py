"""TLS to NATS, with authorities made by `openssl`: who is trusted, who is not, and what is said then."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events.errors import CairnError, Permanent
from infra.jetstream.connection import JetStream
from infra.settings import Nats, Settings
from tests.nats_server import NatsServer
from tests.needs import missing
from tests.waiting import until

pytestmark = pytest.mark.integration


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate = folder / "ca.pem"
        self._openssl("req", "-x509", "-subj", "/CN=ours", "-keyout", "ca.key", "-out", "ca.pem", "-days", "1")

    def issue(self, name: str, *, address: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        """A certificate and its key."""
        self._openssl("req", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (self.folder / "extensions").write_text(f"subjectAltName={address}\n")
        by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", "1")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *by)
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        fresh = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes") if arguments[0] == "req" else ()
        subprocess.run(["openssl", *arguments, *fresh], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    if shutil.which("openssl") is None:
        missing("there is no openssl here to make certificates with")
    return Authority(tmp_path / "authority")


def serving(directory: Path, authority: Authority, more: str = "", **of: str) -> NatsServer:
    certificate, key = authority.issue("server", **of)
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{key}"{more} }}'
    server = NatsServer(directory / "nats", settings=tls)
    server.start()
    return server


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[NatsServer]:
    server = serving(tmp_path, authority)
    yield server
    server.stop()


async def connected(url: str, **nats: Any) -> JetStream:
    return await JetStream.connect(Settings(nats=Nats(url=url, **nats)), "test")


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_a_server_of_our_authority(server: NatsServer, authority: Authority, scheme: str) -> None:
    """Work is done over TLS, whichever way the address is written, and goes on when the server was away."""
    jetstream = await connected(server.url.replace("nats", scheme, 1), tls_ca=str(authority.certificate))
    await jetstream.ensure_streams()
    server.kill()
    await until(lambda: not jetstream.connected)
    server.start()
    await until(lambda: jetstream.connected)
    assert await jetstream.log.last_sequence() == 0
    await jetstream.close()


async def test_a_server_of_another_authority(server: NatsServer, tmp_path: Path) -> None:
    """It is not spoken to, and the setting is named; so where nothing but this host's own authorities is trusted."""
    other = Authority(tmp_path / "other")
    for nats in ({"tls_ca": str(other.certificate)}, {}):
        with pytest.raises(CairnError, match=r"certificate that is not trusted.*Check nats.tls_ca") as refused:
            await connected(server.url.replace("nats://", "tls://"), **nats)
        assert type(refused.value) is CairnError


async def test_a_certificate_for_another_address(tmp_path: Path, authority: Authority) -> None:
    """Of the right authority, but somebody else's."""
    server = serving(tmp_path, authority, address="DNS:nats.example.org")
    try:
        with pytest.raises(CairnError, match=r"not valid for '127.0.0.1'"):
            await connected(server.url, tls_ca=str(authority.certificate))
    finally:
        server.stop()


async def test_a_server_without_tls(tmp_path: Path, authority: Authority) -> None:
    """Who wants TLS says nothing in the clear: not even who it is."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        for url, nats in ((server.url, {"tls_ca": str(authority.certificate)}), (f"tls://{server.url[7:]}", {})):
            with pytest.raises(CairnError, match="does not offer TLS"):
                await connected(url, **nats)
    finally:
        server.stop()


async def test_a_server_that_asks_who_we_are(tmp_path: Path, authority: Authority) -> None:
    """With a certificate of ours it lets us in, without one it breaks off."""
    server = serving(tmp_path, authority, f', ca_file: "{authority.certificate}", verify: true')
    certificate, key = authority.issue("client")
    try:
        own = {"tls_ca": str(authority.certificate), "tls_cert": str(certificate), "tls_key": str(key)}
        await (await connected(server.url, **own)).close()
        with pytest.raises(CairnError, match=r"broke off TLS.*Check nats.tls_cert"):
            await connected(server.url, tls_ca=str(authority.certificate))
    finally:
        server.stop()


async def test_files_that_cannot_be_used(authority: Authority, tmp_path: Path) -> None:
    """The setting and the file are named before anything is connected."""
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing\n")
    for nats, named in (
        ({"tls_ca": "/nowhere/ca.pem"}, "nats.tls_ca /nowhere/ca.pem"),
        ({"tls_ca": str(broken)}, "nats.tls_ca"),
        ({"tls_ca": str(authority.certificate), "tls_cert": str(broken)}, "nats.tls_cert"),
    ):
        with pytest.raises(Permanent, match=f"{named}.* cannot be used"):
            await connected("tls://127.0.0.1:1", **nats)
