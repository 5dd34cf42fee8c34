"""PostgreSQL: connections and pools, and its errors in Cairn's words.

Every error that means "not now" becomes ``Transient`` and every one that means "not like this" at sign-in becomes
``Permanent``, each with what to look at. An error in our own SQL stays what it is: that is a bug.

TCP connections are kept alive with short intervals, so that a server that vanished is noticed within half a minute
on both sides.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from events.errors import Permanent, Transient
from infra.secrets import resolve
from infra.settings import Postgres

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

T = TypeVar("T")

CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 60.0
POOL_SIZE = 10

_KEEPALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shut down, starting up, a cancelled query
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.TransactionRollbackError,  # deadlocks, lost races
    asyncpg.PostgresSystemError,  # input and output errors of the server
    OSError,
    TimeoutError,
    # What asyncpg says of a connection that is closed. Errors in values are DataError, which is a subclass too.
    asyncpg.InterfaceError,
    # What it says of a connection that the server ended while it was idle, when it is used next.
    asyncpg.InternalClientError,
)
_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


def sign_in_url(postgres: Postgres) -> str:
    """The URL with the password that its reference stands for. Raises ``Permanent`` where that cannot be had."""
    if not postgres.password:
        return postgres.url
    parts = urlsplit(postgres.url)
    user, _, host = parts.netloc.rpartition("@")
    password = quote(resolve(postgres.password), safe="")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{host}"))


@contextlib.contextmanager
def transient(what: str = "PostgreSQL") -> Iterator[None]:
    """Turn the errors that mean "not now" into ``Transient``."""
    try:
        yield
    except (asyncpg.DataError, asyncpg.ClientConfigurationError):
        raise
    except _AWAY as error:
        message = f"{what} cannot be used now: {str(error) or type(error).__name__}"
        raise Transient(message) from error


@contextlib.asynccontextmanager
async def connection(url: str, *, search_path: str = "", name: str = "cairn") -> AsyncIterator[Connection]:
    """One connection, closed at the end. Raises ``Transient``, also for what goes wrong inside, and ``Permanent``."""
    opened = await _signed_in(
        url,
        lambda: asyncpg.connect(
            url, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, server_settings=_settings(search_path, name)
        ),
    )
    try:
        with transient(f"PostgreSQL at {without_password(url)}"):
            yield opened
    finally:
        opened.terminate()


async def connect_pool(
    url: str,
    *,
    search_path: str = "",
    name: str = "cairn",
    size: int = POOL_SIZE,
    prepare: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> Pool:
    """A pool that survives restarts of the server; ``prepare(connection)`` runs on each new connection.

    Raises ``Transient`` where the server is away now, ``Permanent`` where it refuses us.
    """
    return await _signed_in(
        url,
        lambda: asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            server_settings=_settings(search_path, name),
            init=prepare,
        ),
    )


def quoted(identifier: str) -> str:
    """``identifier`` as it stands in SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def without_password(url: str) -> str:
    """``url`` as it may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _settings(search_path: str, name: str) -> dict[str, str]:
    settings = {"application_name": name, **_KEEPALIVE}
    if search_path:
        settings["search_path"] = quoted(search_path)
    return settings


async def _signed_in(url: str, connect: Callable[[], Awaitable[T]]) -> T:
    if not url:
        message = "no PostgreSQL is set: give its URL in postgres.url (CAIRN_POSTGRES__URL)."
        raise Permanent(message, slug="postgres-unset")
    shown = without_password(url)
    try:
        with transient(f"PostgreSQL at {shown}"):
            return await connect()
    except _REFUSED as error:
        message = f"PostgreSQL at {shown} refuses the sign-in: {error}. Check postgres.url."
        raise Permanent(message, slug="postgres-refused") from error
    except ValueError as error:
        # asyncpg raises ClientConfigurationError, a ValueError, for a URL that it cannot read.
        message = f"{shown!r} is no URL of a PostgreSQL: {error}. Check postgres.url."
        raise Permanent(message, slug="postgres-url") from error
