"""Read-only statements about the whole: the queues, the workers, and how the database fares."""

from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.model import Priority, Time

COUNTED: Final = 10_000
"""So many tasks of one kind are counted; a count of all would cost as much as there are."""

LISTED: Final = 20
"""Tasks told of each worker, at most."""


class QueueStats(Struct, frozen=True, kw_only=True):
    """One priority's queued tasks without the held ones; counts end at ``COUNTED``, and ``more`` says so."""

    priority: Priority
    waiting: int
    scheduled: int
    more: bool
    oldest_seconds: float | None


# The order keeps the planner on the ready index: with LIMIT alone it may walk the whole table.
QUEUES = """
SELECT wanted.priority::text,
       least(waiting.count, %(counted)s) AS waiting, least(later.count, %(counted)s) AS scheduled,
       greatest(waiting.count, later.count) > %(counted)s AS more,
       extract(epoch FROM now() - oldest.scheduled_at)::float8 AS oldest_seconds
FROM unnest(enum_range(NULL::taskflow.priority)) AS wanted (priority)
CROSS JOIN LATERAL (
    SELECT count(*) FROM (
        SELECT FROM taskflow.tasks
        WHERE status = 'queued' AND NOT held AND priority = wanted.priority AND scheduled_at <= now()
        ORDER BY scheduled_at, id
        LIMIT %(counted)s + 1
    ) AS due
) AS waiting
CROSS JOIN LATERAL (
    SELECT count(*) FROM (
        SELECT FROM taskflow.tasks
        WHERE status = 'queued' AND NOT held AND priority = wanted.priority AND scheduled_at > now()
        ORDER BY scheduled_at, id
        LIMIT %(counted)s + 1
    ) AS due_later
) AS later
LEFT JOIN LATERAL (
    SELECT scheduled_at FROM taskflow.tasks
    WHERE status = 'queued' AND NOT held AND priority = wanted.priority AND scheduled_at <= now()
    ORDER BY scheduled_at, id
    LIMIT 1
) AS oldest ON true
ORDER BY wanted.priority
"""


async def find_queues(conn: Connection) -> list[QueueStats]:
    """Every priority, in the order of claiming."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(QUEUES, {"counted": COUNTED})).fetchall()
    return msgspec.convert(rows, list[QueueStats])


HELD = """
SELECT wanted.priority::text,
       (SELECT count(*) FROM (
            SELECT FROM taskflow.tasks
            WHERE status = 'queued' AND held AND priority = wanted.priority
            ORDER BY scheduled_at, id
            LIMIT %(counted)s
        ) AS held)
FROM unnest(enum_range(NULL::taskflow.priority)) AS wanted (priority)
ORDER BY wanted.priority
"""


async def count_held(conn: Connection) -> dict[Priority, int]:
    """How many queued tasks of each priority stand at a gate; counts end at ``COUNTED``."""
    rows = await (await conn.execute(HELD, {"counted": COUNTED})).fetchall()
    return {Priority(priority): count for priority, count in rows}


class RunningTask(Struct, frozen=True, kw_only=True):
    """A task that a worker runs now."""

    id: int
    name: str
    type: str
    attempt: int
    seconds: float


class WorkerView(Struct, frozen=True, kw_only=True):
    """A worker that has not stopped. ``running`` counts its tasks; ``tasks`` tells those that run longest.

    ``pid`` is 0 if it works over HTTP; ``draining``: it stops once what it runs has ended.
    """

    id: int
    name: str
    host: str
    pid: int
    version: str
    priorities: list[Priority]
    concurrency: int
    running: int
    tasks: list[RunningTask]
    started_at: Time
    heartbeat_at: Time
    silent_seconds: float
    draining: bool


WORKERS = """
SELECT worker.id, worker.name, host, pid, version, priorities::text[], concurrency, running.count AS running,
       running.tasks, started_at, heartbeat_at,
       greatest(extract(epoch FROM now() - heartbeat_at)::float8, 0) AS silent_seconds,
       draining_at IS NOT NULL AS draining
FROM taskflow.workers AS worker
CROSS JOIN LATERAL (
    SELECT count(*),
           coalesce(jsonb_agg(jsonb_build_object('id', task.id, 'name', task.name, 'type', task.type,
                                                 'attempt', task.attempt,
                                                 'seconds', extract(epoch FROM now() - task.started_at)::float8)
                              ORDER BY number) FILTER (WHERE number <= %(listed)s), '[]') AS tasks
    FROM (
        SELECT id, name, type, attempt, started_at, row_number() OVER (ORDER BY started_at, id) AS number
        FROM taskflow.tasks
        WHERE worker_id = worker.id AND status = 'running'
    ) AS task
) AS running
WHERE stopped_at IS NULL
ORDER BY worker.name, worker.id
"""


async def find_workers(conn: Connection) -> list[WorkerView]:
    """The workers that have not stopped, by name; one that is silent for longer than the lease is most likely gone."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(WORKERS, {"listed": LISTED})).fetchall()
    return msgspec.convert(rows, list[WorkerView])


class FleetStats(NamedTuple):
    """How many live workers claim a priority, all live slots, and how many workers are silent beyond the lease."""

    by_priority: dict[Priority, int]
    slots: int
    silent: int


FLEET = """
SELECT coalesce(priorities, '{}')::text[], concurrency, heartbeat_at < now() - make_interval(secs => %(lease)s)
FROM taskflow.workers
WHERE stopped_at IS NULL
"""


async def find_fleet(conn: Connection, lease: float) -> FleetStats:
    """The workers that have not stopped, counted."""
    rows = await (await conn.execute(FLEET, {"lease": lease})).fetchall()
    live = [(priorities, slots) for priorities, slots, is_silent in rows if not is_silent]
    return FleetStats(
        {priority: sum(priority.value in priorities for priorities, _ in live) for priority in Priority},
        sum(slots for _, slots in live),
        len(rows) - len(live),
    )


class TaskCounts(NamedTuple):
    """Running tasks, and failed ones counted up to ``COUNTED``."""

    running: int
    failed: int


COUNTS = """
SELECT (SELECT count(*) FROM taskflow.tasks WHERE status = 'running'),
       (SELECT count(*) FROM (
            SELECT FROM taskflow.tasks WHERE status = 'failed' ORDER BY updated_at, id LIMIT %(counted)s
        ) AS failed)
"""


async def count_tasks(conn: Connection) -> TaskCounts:
    """The counts that an index of their own makes cheap."""
    row = await (await conn.execute(COUNTS, {"counted": COUNTED})).fetchone()
    return TaskCounts(*(row or (0, 0)))


class Totals(NamedTuple):
    """Tasks that were stored, and attempts that ended, since Postgres' statistics began: estimates, for rates.

    They lag behind by about a second.
    """

    enqueued: int
    attempts: int


# A claim writes a task's row once, and the end of its attempt a second time.
TOTALS = """
SELECT n_tup_ins, n_tup_upd / 2
FROM pg_stat_all_tables
WHERE schemaname = 'taskflow' AND relname = 'tasks'
"""


async def find_totals(conn: Connection) -> Totals:
    """How much there was so far, whatever there is now."""
    return Totals(*(await (await conn.execute(TOTALS)).fetchone() or (0, 0)))


FAILING_COUNTED: Final = 5_000
"""So many failures of the last hour are looked at."""


class FailingType(NamedTuple):
    """A task type, and how many of the last hour's failures are its."""

    type: str
    failures: int


FAILING = """
SELECT type, count(*)
FROM (
    SELECT type
    FROM taskflow.tasks
    WHERE status = 'failed' AND updated_at > now() - interval '1 hour'
    ORDER BY updated_at DESC, id DESC
    LIMIT %(counted)s
) AS recent
GROUP BY type
ORDER BY count(*) DESC, type
LIMIT 5
"""


async def find_failing(conn: Connection) -> list[FailingType]:
    """The five task types that failed for good most often in the last hour, most often first."""
    cursor = await conn.execute(FAILING, {"counted": FAILING_COUNTED})
    return [FailingType(*row) for row in await cursor.fetchall()]


class TableStats(NamedTuple):
    """A table's size with its indexes, and its row versions as Postgres estimates them."""

    table: str
    bytes: int
    live_tuples: int
    dead_tuples: int


TABLES = """
SELECT relname::text, pg_total_relation_size(relid), n_live_tup, n_dead_tup
FROM pg_stat_all_tables
WHERE schemaname = 'taskflow' AND relname IN ('tasks', 'attempts')
ORDER BY relname
"""


async def find_tables(conn: Connection) -> list[TableStats]:
    """The tables that grow."""
    return [TableStats(*row) for row in await (await conn.execute(TABLES)).fetchall()]


class ServerStats(NamedTuple):
    """Share of the notification queue in use (0 to 1), and seconds that the oldest transaction of this database lasts.

    Sessions of other roles are seen by members of pg_read_all_stats only.
    """

    notify_usage: float
    oldest_transaction: float


SERVER = """
SELECT pg_notification_queue_usage(),
       (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend')
"""


async def find_server(conn: Connection) -> ServerStats:
    """How Postgres fares."""
    row = await (await conn.execute(SERVER)).fetchone()
    return ServerStats(*(row or (0.0, 0.0)))
