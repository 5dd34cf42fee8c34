"""The embedded stack: nats-server and PostgreSQL from their wheels, and every service as a process of its own."""
