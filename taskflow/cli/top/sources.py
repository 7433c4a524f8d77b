"""Where the view's facts come from: the database itself, or the API over HTTP."""

import asyncio
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
import psycopg
from msgspec import Struct

from taskflow import queries, stats
from taskflow.bulk import Action, Order
from taskflow.bulk import change as change_ids
from taskflow.client import ApiError, AsyncClient, Unreachable
from taskflow.connection import SureConnection
from taskflow.database import TROUBLE, Database, connect
from taskflow.errors import TaskflowError
from taskflow.filters import Sort, TaskFilter
from taskflow.model import Priority, Status, Time
from taskflow.queries import QueueView, TaskSummary
from taskflow.stats import QueueStats, WorkerView

PATIENCE: Final = 5.0
"""Seconds in which a statement or a request must be answered."""

SHOWN: Final = 100
"""Tasks of one look, at most."""


class Away(TaskflowError):
    """The database or the API gives no answer for the moment."""


class Refused(TaskflowError):
    """What was asked for is not done."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """How it stood at a moment; the counts of ``stats`` are bounded. ``tasks`` are those that were asked for."""

    at: Time
    queues: list[QueueStats]
    paused: list[Priority]
    running: int
    failed: int
    enqueued_total: int  # estimates, for rates
    attempts_total: int
    workers: list[WorkerView]
    tasks: list[TaskSummary]


class Source(Protocol):
    """Tells how it stands, and changes tasks."""

    where: str

    async def look(self, filter: TaskFilter) -> Snapshot:
        """How it stands, with the tasks that meet *filter*; raises Away or Refused."""
        ...

    async def change(self, action: Action, id: int) -> None:
        """Retry or cancel the task; raises Away or Refused."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


def order_of(filter: TaskFilter) -> Sort:
    """What is under way is listed from the oldest on, what has ended from the newest."""
    return Sort.OLDEST if filter.status in {Status.QUEUED, Status.RUNNING} else Sort.NEWEST


class DatabaseSource:
    """Over one connection, that is opened anew whenever it was lost."""

    def __init__(self, database: Database, where: str) -> None:
        self.where = where
        self._database = database
        self._conn: SureConnection | None = None
        self._lock = asyncio.Lock()

    async def look(self, filter: TaskFilter) -> Snapshot:
        """See Source."""
        try:
            async with self._lock:
                conn = await self._connection()
                counts, totals = await stats.count_tasks(conn), await stats.find_totals(conn)
                found = await queries.find_ids(conn, filter, order_of(filter), SHOWN)
                return Snapshot(
                    at=datetime.now(UTC),
                    queues=await stats.find_queues(conn),
                    paused=_paused(await queries.find_queue_views(conn)),
                    running=counts.running,
                    failed=counts.failed,
                    enqueued_total=totals.enqueued,
                    attempts_total=totals.attempts,
                    workers=await stats.find_workers(conn),
                    tasks=await queries.find_tasks(conn, found.ids),
                )
        except TROUBLE as error:
            raise self._trouble(error) from error

    async def change(self, action: Action, id: int) -> None:
        """See Source."""
        try:
            async with self._lock:
                conn = await self._connection()
                count = await change_ids(conn, Order(action=action, filter=TaskFilter()), [id])
        except TROUBLE as error:
            raise self._trouble(error) from error
        if not count:
            raise Refused("its status, or its unique_key, does not allow it")

    async def close(self) -> None:
        """See Source."""
        if self._conn is not None:
            await self._conn.close()

    async def _connection(self) -> SureConnection:
        if self._conn is None or self._conn.closed:
            limits = {"statement_timeout": str(int(1000 * PATIENCE))}
            dsn, pooled = self._database.dsn, self._database.is_pooled
            self._conn = await connect(dsn, "taskflow top", patience=PATIENCE + 1, settings=limits, pooled=pooled)
        return self._conn

    def _trouble(self, error: Exception) -> TaskflowError:
        words = " ".join(str(error).split())
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return Refused(words)
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            return Away("the database has not the schema of this version; run `taskflow migrate`")
        return Away(words)


class ApiSource:
    """Over HTTP, as who has a token."""

    def __init__(self, url: str, token: str | None) -> None:
        self.where = url
        self._client = AsyncClient(url, token, timeout=PATIENCE)
        self._client.retries = 0  # the next look comes soon

    async def look(self, filter: TaskFilter) -> Snapshot:
        """See Source."""
        given = msgspec.to_builtins(filter)
        wanted = {name: value for name, value in given.items() if value is not None}
        try:
            counts = await self._client.read("/stats")
            queues = await self._client.read("/queues")
            workers = await self._client.read("/workers")
            tasks = await self._client.read("/tasks", sort=order_of(filter), limit=SHOWN, **wanted)
        except (ApiError, Unreachable) as error:
            raise _told(error) from error
        facts = counts | workers | {"tasks": tasks["tasks"], "at": datetime.now(UTC)}
        facts["paused"] = _paused(msgspec.convert(queues["queues"], list[QueueView]))
        return msgspec.convert(facts, Snapshot)

    async def change(self, action: Action, id: int) -> None:
        """See Source."""
        try:
            await (self._client.retry(id) if action is Action.RETRY else self._client.cancel(id))
        except (ApiError, Unreachable) as error:
            raise _told(error) from error

    async def close(self) -> None:
        """See Source."""
        await self._client.close()


def _told(error: ApiError | Unreachable) -> TaskflowError:
    if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
        return Refused(f"{error.status} {error.detail or error.title}")
    return Away(" ".join(str(error).split()))


def _paused(queues: list[QueueView]) -> list[Priority]:
    return [queue.priority for queue in queues if queue.paused_at is not None]
