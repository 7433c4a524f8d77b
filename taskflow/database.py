"""Connections to Postgres: how they are opened, kept alive, pooled, and waited for."""

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import backoff
import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from taskflow.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

KEEPALIVE: Final = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""A connection cut without a word is noticed within 20 s; what the user's own URL says wins."""

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


class SureConnection(AsyncConnection[TupleRow]):
    """A connection on which a commit that no synchronous standby has confirmed does not pass for a success.

    A commit that is cancelled while it waits for a standby stays, but is lost if this server is lost. Postgres answers
    with success and a warning; here, DatabaseUnavailable is raised. (statement_timeout does not end that wait.)
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doubts = doubts = list[str]()

        def note(diagnostic: Diagnostic) -> None:
            if diagnostic.source_function == "SyncRepWaitForLSN":  # the message is translated
                doubts.append(diagnostic.message_primary or "")

        self.add_notice_handler(note)

    async def wait(self, *arguments: Any, **options: Any) -> Any:
        """Every statement passes here, the COMMIT of a transaction block as well."""
        try:
            answer = await super().wait(*arguments, **options)
        except psycopg.InternalError as error:
            if self.closed:  # psycopg's word for a BEGIN on a session that the server has ended: "received 2 results"
                raise psycopg.OperationalError(f"the connection was lost: {error}") from error
            raise
        if self._doubts:
            await self.close()
            raise DatabaseUnavailable(f"no standby has confirmed the commit: {self._doubts[0]}")
        return answer


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


async def connect(dsn: str, application: str) -> Connection:
    """One connection in autocommit mode; raises psycopg.OperationalError if no Postgres that writes can be reached."""
    conn = await SureConnection.connect(with_defaults(dsn, application), autocommit=True)
    await _refuse_standby(conn)
    return conn


async def _refuse_standby(conn: Connection) -> None:
    """Close *conn* and raise psycopg.OperationalError where nothing can be written, as after a failover.

    libpq's target_session_attrs=read-write would do it, but PgBouncer may show it what an earlier server said.
    """
    try:
        cursor = await conn.execute("SHOW transaction_read_only")
        if await cursor.fetchone() == ("on",):
            raise psycopg.OperationalError("the server is a standby, or read-only")
    except BaseException:
        await conn.close()
        raise


@asynccontextmanager
async def open_pool(
    dsn: str, application: str, *, max_size: int, statement_timeout: float, wait: float = 3.0
) -> AsyncGenerator[Pool]:
    """A pool of autocommit connections; *statement_timeout* (seconds) bounds each statement on them.

    A connection is waited for *wait* seconds, then PoolTimeout is raised. The pool opens without a server and
    reconnects by itself.
    """

    async def configure(conn: Connection) -> None:
        await _refuse_standby(conn)
        milliseconds = str(int(statement_timeout * 1000))
        await conn.execute("SELECT set_config('statement_timeout', %s, false)", [milliseconds])

    async def check(conn: Connection) -> None:
        try:
            await AsyncConnectionPool.check_connection(conn)
        except psycopg.OperationalError:
            await pool.drain()  # the others were lost with it, most likely, and the pool would try but one a second
            raise

    pool: Pool = AsyncConnectionPool(
        with_defaults(dsn, application),
        connection_class=SureConnection,
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
