"""Enqueue: from nothing to ``queued``."""

from collections.abc import Sequence

import msgspec

from taskflow.database import Connection
from taskflow.model import NewTask

# One JSON document instead of an array per column: a tenth of the client's work, and Postgres's stays the same.
ENQUEUE = """
INSERT INTO taskflow.tasks (name, type, payload, priority, max_attempts, scheduled_at)
SELECT name, type, payload, coalesce(priority, 'normal'), coalesce(max_attempts, 5),
       coalesce(scheduled_at, now() + make_interval(secs => delay), now())
FROM ROWS FROM (
        jsonb_to_recordset(%(tasks)s::jsonb)
        AS (name text, type text, payload jsonb, priority taskflow.priority, max_attempts integer,
            scheduled_at timestamptz, delay double precision)
     ) WITH ORDINALITY AS given (name, type, payload, priority, max_attempts, scheduled_at, delay, position)
ORDER BY position
RETURNING id
"""

ENQUEUE_HELD = "SELECT taskflow.enqueue_held(%(tasks)s::jsonb)"

_encoder = msgspec.json.Encoder()


async def enqueue_many(conn: Connection, tasks: Sequence[NewTask]) -> list[int]:
    """Store *tasks* in one statement; their ids come in the order of *tasks*. All or nothing.

    Raises psycopg.DataError or psycopg.IntegrityError if one of them cannot be stored, or waits for a task that does
    not exist. A thousand tasks a statement are as fast as it gets.
    """
    statement = ENQUEUE_HELD if any(task.has_gates for task in tasks) else ENQUEUE
    cursor = await conn.execute(statement, {"tasks": _encoder.encode(tasks).decode()})
    # Ids are drawn in the order of the rows, but RETURNING promises none.
    return sorted(id for (id,) in await cursor.fetchall())
