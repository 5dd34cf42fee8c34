"""JetStream behind the ports of ``infra.ports``: one connection a process, own light request path, raw pulls."""
