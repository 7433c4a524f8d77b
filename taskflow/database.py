"""Connections to Postgres: how they are opened, kept alive, pooled, and waited for."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import backoff
import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.waiting import wait_async
from psycopg_pool import AsyncConnectionPool, PoolTimeout

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

CALL_OFF: Final = 1.0
"""Seconds in which Postgres must take notice of a cancellation."""

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


class SureConnection(AsyncConnection[TupleRow]):
    """A connection on which nothing is waited for in vain, and a commit that no synchronous standby has confirmed does
    not pass for a success.

    The other side may be cut off without a word, so each statement must be answered within ``patience`` seconds (None:
    however long it takes); else the connection is closed, and psycopg.OperationalError raised.

    A commit that is cancelled while it waits for a standby stays, but is lost if this server is lost. Postgres answers
    with success and a warning; here, DatabaseUnavailable is raised. (statement_timeout does not end that wait.)
    """

    patience: float | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doubts = doubts = list[str]()

        def note(diagnostic: Diagnostic) -> None:
            if diagnostic.source_function == "SyncRepWaitForLSN":  # the message is translated
                doubts.append(diagnostic.message_primary or "")

        self.add_notice_handler(note)

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Every statement passes here, the COMMIT of a transaction block as well."""
        limit = self.patience if timeout is None else timeout
        try:
            answer = await wait_async(gen, self.pgconn.socket, interval, limit)
        except (psycopg.OperationalError, asyncio.CancelledError) as error:
            if self.info.transaction_status is not TransactionStatus.ACTIVE:
                raise
            await self._call_off(gen)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise psycopg.OperationalError(f"no answer within {limit} s") from error
        except psycopg.InternalError as error:
            if self.closed:  # psycopg's word for a BEGIN on a session that the server has ended: "received 2 results"
                raise psycopg.OperationalError(f"the connection was lost: {error}") from error
            raise
        if self._doubts:
            await self.close()
            raise DatabaseUnavailable(f"no standby has confirmed the commit: {self._doubts[0]}")
        return answer

    async def _call_off(self, gen: PQGen[Any]) -> None:
        """Cancel the statement under way, which Postgres might go on with.

        Unless it says soon that it is over the connection is closed. (psycopg's own way waits for ten seconds.)
        """
        is_over = False
        try:
            await self.cancel_safe(timeout=CALL_OFF)
            await wait_async(gen, self.pgconn.socket, CALL_OFF, CALL_OFF)
            is_over = True
        except psycopg.errors.QueryCanceled:
            is_over = True
        except psycopg.Error as error:
            log.debug("statement.abandoned", reason=str(error).strip())
        finally:
            if not is_over:
                self.pgconn.finish()


Pool = AsyncConnectionPool[SureConnection]


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


async def connect(dsn: str, application: str, *, patience: float | None = None) -> SureConnection:
    """One connection in autocommit mode, on which each statement is answered within *patience* seconds.

    Raises psycopg.OperationalError if no Postgres that writes can be reached.
    """
    conn = await SureConnection.connect(with_defaults(dsn, application), autocommit=True)
    conn.patience = patience
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


BOUNDS: Final = """
SELECT set_config('statement_timeout', %(milliseconds)s, false),
       set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false)
"""


@asynccontextmanager
async def open_pool(
    dsn: str, application: str, *, max_size: int, statement_timeout: float, wait: float = 3.0
) -> AsyncGenerator[Pool]:
    """A pool of autocommit connections; *statement_timeout* (seconds) bounds each statement on them.

    A connection is waited for *wait* seconds, then PoolTimeout is raised. The pool opens without a server and
    reconnects by itself.
    """

    async def configure(conn: SureConnection) -> None:
        conn.patience = statement_timeout + 1
        await _refuse_standby(conn)
        await conn.execute(BOUNDS, {"milliseconds": str(int(statement_timeout * 1000))})

    async def check(conn: SureConnection) -> None:
        conn.patience = CHECK_PATIENCE
        try:
            await AsyncConnectionPool.check_connection(conn)
        except psycopg.OperationalError:
            await pool.drain()  # the others were lost with it, most likely, and the pool would try but one a second
            raise
        conn.patience = statement_timeout + 1

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
