"""The connection that all goes over: it does not wait in vain, nor does a doubtful commit pass for a success."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import psycopg
import structlog
from psycopg import AsyncConnection, AsyncCursor, AsyncTransaction
from psycopg.abc import RV, PQGen
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus
from psycopg.rows import Row, TupleRow
from psycopg.waiting import wait_async

from taskflow.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

CALL_OFF: Final = 1.0
"""Seconds in which Postgres must take notice of a cancellation."""

USE: Final = """
SELECT set_config(name, setting, %(is_local)s)
FROM unnest(%(names)s::text[], %(settings)s::text[]) AS given (name, setting)
"""


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

    async def use(self, settings: Mapping[str, str]) -> None:
        """Have *settings* of Postgres in force from now on."""
        if settings:
            await _use(self, settings, is_local=False)

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


class PooledConnection(SureConnection):
    """A connection to a pooler in transaction mode, where another session of Postgres may serve each transaction.

    So what ``use`` sets is set anew in each transaction, also in the one that a single statement is.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = _PooledCursor
        self._settings: Mapping[str, str] = {}

    @classmethod
    async def connect(cls, *arguments: Any, **options: Any) -> Self:
        """As psycopg's, without prepared statements: they belong to a session."""
        return await super().connect(*arguments, **{**options, "prepare_threshold": None})

    async def use(self, settings: Mapping[str, str]) -> None:
        """Have *settings* in force in each transaction from now on."""
        self._settings = settings

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncGenerator[AsyncTransaction]:
        """As psycopg's, with the settings in force."""
        is_nested = _is_busy(self)
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if self._settings and not is_nested:
                await _use(self, self._settings, is_local=True)
            yield transaction


class _PooledCursor(AsyncCursor[Row]):
    async def execute(self, *arguments: Any, **options: Any) -> Self:
        if _is_busy(self.connection):
            return await super().execute(*arguments, **options)
        async with self.connection.transaction():
            return await super().execute(*arguments, **options)


def _is_busy(conn: AsyncConnection[Any]) -> bool:
    """Whether *conn* is in a transaction, or closed."""
    return conn.info.transaction_status is not TransactionStatus.IDLE


async def _use(conn: AsyncConnection[Any], settings: Mapping[str, str], *, is_local: bool) -> None:
    names, values = list(settings), list(settings.values())
    await conn.execute(USE, {"is_local": is_local, "names": names, "settings": values})
