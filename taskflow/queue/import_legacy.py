"""Import: from the tables of the original Go system to tasks in the state they were in."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from taskflow.database import Connection


class LegacyTask(Struct, frozen=True):
    """A row of the original's tasks and what its history tells of it; times are as written there, without a zone."""

    name: str
    type: str
    status: str  # queued, running, succeeded or failed
    priority: str
    payload: dict[str, object]
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    attempt: int  # how often it was started


WORKER: Final = """
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency, stopped_at)
VALUES ('the original system', 'imported', 0, 'imported', '{high,normal,low}', 1, now())
RETURNING id
"""

# Whoever ran a running task is gone: it is queued, and may run twice.
IMPORT: Final = """
INSERT INTO taskflow.tasks (name, type, payload, priority, status, attempt, max_attempts, created_at, updated_at,
                            scheduled_at, started_at, finished_at, worker_id, error)
SELECT coalesce(nullif(name, ''), type), type, payload, priority,
       CASE WHEN ended THEN status::taskflow.status ELSE 'queued' END,
       CASE WHEN ended THEN greatest(attempt, 1) ELSE attempt END, greatest(attempt, 0) + 5,
       created, created, created,
       CASE WHEN ended THEN coalesce(started_at AT TIME ZONE %(zone)s, updated) END,
       CASE WHEN ended THEN coalesce(finished_at AT TIME ZONE %(zone)s, updated) END,
       CASE WHEN ended THEN %(worker)s::bigint END,
       CASE WHEN status = 'failed' THEN 'failed in the original system, which kept no error' END
FROM ROWS FROM (
        jsonb_to_recordset(%(tasks)s::jsonb)
        AS (name text, type text, payload jsonb, priority taskflow.priority, status text, attempt integer,
            created_at timestamp, updated_at timestamp, started_at timestamp, finished_at timestamp)
     ) WITH ORDINALITY AS given (name, type, payload, priority, status, attempt, created_at, updated_at, started_at,
                                 finished_at, position),
     LATERAL (SELECT status IN ('succeeded', 'failed') AS ended,
                     created_at AT TIME ZONE %(zone)s AS created, updated_at AT TIME ZONE %(zone)s AS updated) AS read
ORDER BY position
RETURNING id
"""


async def add_worker(conn: Connection) -> int:
    """Store a worker that stands for all of the original's, long gone; its id."""
    cursor = await conn.execute(WORKER)
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def import_legacy(conn: Connection, worker: int, tasks: Sequence[LegacyTask], zone: str) -> list[int]:
    """Store *tasks* as *worker* left them, their times being those of *zone*; the new ids come in their order.

    Raises psycopg.DataError for what cannot be stored, such as a payload with a NUL.
    """
    document = msgspec.json.encode(tasks).decode()
    cursor = await conn.execute(IMPORT, {"tasks": document, "worker": worker, "zone": zone})
    return sorted(id for (id,) in await cursor.fetchall())
