"""Connections to Postgres: how they are opened, kept alive, pooled, and waited for."""

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

import backoff
import psycopg
import structlog
from msgspec import Struct
from psycopg import AsyncConnection, AsyncCursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from taskflow.connection import PooledConnection, SureConnection
from taskflow.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

Connection = AsyncConnection[TupleRow]

KEEPALIVE: Final = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""A connection cut without a word is noticed within 20 s; what the user's own URL says wins."""

CHECK_PATIENCE: Final = 1.0
"""Seconds in which a connection from the pool must show that it is still one."""

AWAY: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.FeatureNotSupported,
    PoolTimeout,
    DatabaseUnavailable,
)
"""What is raised when Postgres is away, goes away in the middle of a statement, or is only a standby (any more).

FeatureNotSupported: a migration changed what a prepared statement gives; a new connection has none that is prepared.
"""

TROUBLE: Final = (psycopg.Error, DatabaseUnavailable)
"""AWAY, and what Postgres refuses altogether: a column that a migration is renaming, a right that was taken away."""


Pool = AsyncConnectionPool[SureConnection]


class Database(Struct, frozen=True):
    """How Postgres is reached: over *dsn*, but over *sessions* for what needs a session of its own.

    That are presence, wake-ups and migrations. Where *dsn* leads to a pooler in transaction mode the two differ; None:
    there is nothing but the pooler.
    """

    dsn: str
    sessions: str | None

    @property
    def is_pooled(self) -> bool:
        """Whether *dsn* leads to a pooler in transaction mode."""
        return self.sessions != self.dsn


def with_defaults(dsn: str, application: str) -> str:
    """*dsn* with Taskflow's keepalives and an application_name, where it does not set them itself."""
    return make_conninfo("", **{**KEEPALIVE, "application_name": application, **conninfo_to_dict(dsn)})


def array(values: Iterable[object]) -> str:
    """*values*, none of which needs quotes, as Postgres writes an array: psycopg takes ten times as long."""
    return f"{{{','.join(map(str, values))}}}"


def describe(dsn: str) -> str:
    """*dsn* for a log line: where it leads and as whom, without secrets."""
    parts = conninfo_to_dict(dsn)
    return " ".join(f"{key}={parts[key]}" for key in ("host", "port", "dbname", "user") if parts.get(key))


async def connect(
    dsn: str,
    application: str,
    *,
    patience: float | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
    pooled: bool = False,
) -> SureConnection:
    """One connection in autocommit mode, with *settings* of Postgres in force; *pooled* as in Database.is_pooled.

    Each statement is answered within *patience* seconds, or psycopg.OperationalError raised, as it is if no Postgres
    that writes can be reached.
    """
    kind = PooledConnection if pooled else SureConnection
    conn = await kind.connect(with_defaults(dsn, application), autocommit=True)
    conn.patience = patience
    try:
        await _refuse_standby(conn)
        await conn.use(settings)
    except BaseException:
        await conn.close()
        raise
    return conn


async def _refuse_standby(conn: Connection) -> None:
    """Raise psycopg.OperationalError where nothing can be written, as after a failover.

    libpq's target_session_attrs=read-write would do it, but PgBouncer may show it what an earlier server said.
    """
    cursor = await conn.execute("SHOW transaction_read_only")
    if await cursor.fetchone() == ("on",):
        raise psycopg.OperationalError("the server is a standby, or read-only")


@asynccontextmanager
async def open_pool(
    dsn: str, application: str, *, max_size: int, statement_timeout: float, wait: float = 3.0, pooled: bool = False
) -> AsyncGenerator[Pool]:
    """A pool of autocommit connections; *statement_timeout* (seconds) bounds each statement on them.

    *pooled* is as in Database.is_pooled.

    A connection is waited for *wait* seconds, then PoolTimeout is raised. The pool opens without a server and
    reconnects by itself.
    """

    async def configure(conn: SureConnection) -> None:
        conn.patience = statement_timeout + 1
        await _refuse_standby(conn)
        milliseconds = str(int(statement_timeout * 1000))
        await conn.use({"statement_timeout": milliseconds, "idle_in_transaction_session_timeout": milliseconds})

    async def check(conn: SureConnection) -> None:
        conn.patience = CHECK_PATIENCE
        try:
            await AsyncCursor(conn).execute("")
        except psycopg.OperationalError:
            await pool.drain()  # the others were lost with it, most likely, and the pool would try but one a second
            raise
        conn.patience = statement_timeout + 1

    pool: Pool = AsyncConnectionPool(
        with_defaults(dsn, application),
        connection_class=PooledConnection if pooled else SureConnection,
        kwargs={"autocommit": True},
        min_size=1,
        max_size=max_size,
        timeout=wait,
        reconnect_timeout=0,
        configure=configure,
        check=check,
        open=False,
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close(timeout=2)


async def wait_until_up(dsn: str, patience: float) -> None:
    """Return once Postgres accepts a connection; it may start later than we do.

    Raises DatabaseUnavailable, with the server's last answer, after *patience* seconds.
    """

    def say(details: Any) -> None:
        reason = str(details["exception"]).strip()
        log.warning("database.waiting", database=describe(dsn), tries=details["tries"], reason=reason)

    @backoff.on_exception(
        backoff.expo, psycopg.OperationalError, max_time=patience, max_value=2, on_backoff=say, logger=None
    )
    async def attempt() -> None:
        async with await connect(dsn, "taskflow") as conn:
            await conn.execute("SELECT 1")

    try:
        await attempt()
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"no answer from Postgres at {describe(dsn)} within {patience:g} s: {str(error).strip()}"
        ) from error


logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it warns at each failed reconnect; we say so once
