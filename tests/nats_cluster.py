"""Three real nats-servers in a cluster on this machine; each can be killed and started again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.embedded.ports import hold_port, port_of
from tests.nats_server import NatsServer

NODES = 3


class NatsCluster:
    """``url`` names every node, as clients are to know them."""

    def __init__(self, directory: Path) -> None:
        self._held = [hold_port() for _ in range(NODES)]
        ports = [port_of(held) for held in self._held]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        self.nodes = [
            NatsServer(
                directory / f"n{number}",
                settings=f"server_name: n{number}\n"
                f'cluster {{\n  name: "cairn"\n  listen: "127.0.0.1:{port}"\n  routes: [{routes}]\n}}',
            )
            for number, port in enumerate(ports)
        ]
        self.url = ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(NatsServer.start, self.nodes))

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
