"""Coalescing enqueue: tasks that arrive while a batch commits become the next batch."""

import asyncio
import select
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import psycopg
from psycopg import errors

from taskflow import events
from taskflow.api.watch import Audience
from taskflow.database import Connection, Pool
from taskflow.errors import InvalidTask
from taskflow.model import NewTask
from taskflow.queue.enqueue import enqueue_many

SENDERS: Final = 2
"""Batches in flight at once, each on a connection of its own."""

LARGEST: Final = 1000
"""Rows in one statement, at most."""

LINGER: Final = 0.2
"""Seconds for which an idle sender keeps its connection; one fetched from the pool is checked first."""

REFUSED: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
)
"""Postgres says that a row of the statement cannot be stored."""


class _Row:
    """A task on its way, and the promise of its id."""

    __slots__ = ("batch", "id", "task")

    def __init__(self, task: NewTask) -> None:
        self.task = task
        self.id: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.batch: _Batch | None = None


class _Batch:
    """Rows in one statement that runs now on *conn*."""

    __slots__ = ("conn", "is_cancelled", "rows")

    def __init__(self, conn: Connection, rows: Sequence[_Row]) -> None:
        self.conn = conn
        self.rows = rows
        self.is_cancelled = False
        for row in rows:
            row.batch = self

    def end(self) -> None:
        """The statement is over; there is nothing left to cancel."""
        for row in self.rows:
            row.batch = None


class Enqueuer:
    """Stores the tasks of concurrent callers with few statements; open one with `open_enqueuer`."""

    def __init__(self, pool: Pool, audience: Audience | None = None) -> None:
        self._pool = pool
        self._audience = audience
        self._waiting: asyncio.Queue[_Row] = asyncio.Queue()
        self._cancellations: set[asyncio.Task[None]] = set()
        self.stored = 0
        """Tasks that were stored since the start, those of batches as well."""

    async def enqueue(self, task: NewTask) -> int:
        """Store *task*; returns its id once the row is durable.

        Raises InvalidTask if Postgres refuses this very row, one of database.AWAY if it cannot be reached (then the
        row may be stored nevertheless). If the caller is cancelled, a row that was not sent will not be, and the
        statement of one that was is cancelled; the rows that shared it are sent again.
        """
        row = _Row(task)
        self._waiting.put_nowait(row)
        try:
            return await row.id
        except asyncio.CancelledError:
            if row.batch is not None:
                self._cancel(row.batch)
            raise

    def _cancel(self, batch: _Batch) -> None:
        if not batch.is_cancelled:
            batch.is_cancelled = True
            cancellation = asyncio.create_task(_cancel_statement(batch.conn))
            self._cancellations.add(cancellation)
            cancellation.add_done_callback(self._cancellations.discard)

    async def send_forever(self) -> None:
        """Send batch after batch, until cancelled; whatever goes wrong is told to the callers it concerns."""
        rows: list[_Row] = []
        while True:
            rows = rows or await self._gather()
            try:
                async with self._pool.connection() as conn:
                    while rows and not await _is_gone(conn):
                        await self._store(conn, rows)
                        rows = await self._gather_soon()
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers must not wait for ever
                _fail(rows, error)
                rows = []

    async def _gather(self) -> list[_Row]:
        """The rows that wait and are still wanted; waits for the first one."""
        while True:
            rows = [await self._waiting.get()]
            while len(rows) < LARGEST and not self._waiting.empty():
                rows.append(self._waiting.get_nowait())
            if wanted := [row for row in rows if not row.id.done()]:
                return wanted

    async def _gather_soon(self) -> list[_Row]:
        """The same, or none if nothing comes for LINGER seconds."""
        try:
            async with asyncio.timeout(LINGER):
                return await self._gather()
        except TimeoutError:
            return []

    async def _store(self, conn: Connection, rows: list[_Row]) -> None:
        """Store *rows* in one statement and tell their callers; raises what is the fault of none of them."""
        batch = _Batch(conn, rows)
        try:
            ids = await self._enqueue(conn, [row.task for row in rows])
        except errors.QueryCanceled:
            self._send_again(rows)
        except REFUSED as error:
            if len(rows) == 1:
                _fail(rows, refusal(error))
            else:
                await self._store_one_by_one(conn, rows)
        else:
            self.stored += len(ids)
            for row, id in zip(rows, ids, strict=True):
                if not row.id.done():
                    row.id.set_result(id)
        finally:
            batch.end()

    async def _enqueue(self, conn: Connection, tasks: list[NewTask]) -> list[int]:
        """Store *tasks*, and tell of them if somebody watches."""
        if self._audience is None or not await self._audience.is_there(conn):
            return await enqueue_many(conn, tasks)
        async with conn.transaction():
            ids = await enqueue_many(conn, tasks)
            await events.tell_within(conn, ids)
        return ids

    async def _store_one_by_one(self, conn: Connection, rows: list[_Row]) -> None:
        """Find the row that spoils its batch: the others are stored, and it fails alone."""
        for row in rows:
            if not row.id.done():
                await self._store(conn, [row])

    def _send_again(self, rows: list[_Row]) -> None:
        """Nothing of the cancelled statement was stored, and some callers may still have time."""
        for row in rows:
            if not row.id.done():
                self._waiting.put_nowait(row)


def refusal(error: psycopg.Error) -> InvalidTask:
    """What Postgres has against a task."""
    problem = (error.diag.message_primary or str(error)).partition("\n")[0]
    if isinstance(error, errors.UniqueViolation):
        return InvalidTask("unique_key", "a queued or running task has it")
    if isinstance(error, errors.ForeignKeyViolation):
        return InvalidTask("after", problem.removeprefix("after: "))
    return InvalidTask("payload", problem)


def _fail(rows: Sequence[_Row], error: Exception) -> None:
    for row in rows:
        if not row.id.done():
            row.id.set_exception(error)


async def _is_gone(conn: Connection) -> bool:
    """Whether Postgres ended the session while it was idle; then it is closed on our side too.

    An idle session has nothing to say, except goodbye; asking it would cost a round trip for each batch.
    """
    poll = select.poll()
    poll.register(conn, select.POLLIN)
    if poll.poll(0):
        await conn.close()
    return conn.closed


async def _cancel_statement(conn: Connection) -> None:
    with suppress(psycopg.Error):  # then statement_timeout ends it
        await conn.cancel_safe(timeout=5)


@asynccontextmanager
async def open_enqueuer(pool: Pool, audience: Audience | None = None) -> AsyncGenerator[Enqueuer]:
    """An Enqueuer whose senders run until the block ends; a row that is under way then may be stored or not."""
    enqueuer = Enqueuer(pool, audience)
    senders = [asyncio.create_task(enqueuer.send_forever()) for _ in range(SENDERS)]
    try:
        yield enqueuer
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
