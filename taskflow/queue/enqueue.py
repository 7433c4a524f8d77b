"""Enqueue: from nothing to ``queued``."""

from collections.abc import Sequence

from taskflow.database import Connection
from taskflow.model import NewTask

ENQUEUE = """
INSERT INTO taskflow.tasks (name, type, payload, priority, max_attempts, scheduled_at)
SELECT name, type, payload::jsonb, priority, max_attempts, coalesce(scheduled_at, now())
FROM unnest(%(names)s::text[], %(types)s::text[], %(payloads)s::text[], %(priorities)s::taskflow.priority[],
            %(max_attempts)s::integer[], %(scheduled_at)s::timestamptz[])
     WITH ORDINALITY AS given (name, type, payload, priority, max_attempts, scheduled_at, position)
ORDER BY position
RETURNING id
"""


async def enqueue_many(conn: Connection, tasks: Sequence[NewTask]) -> list[int]:
    """Store *tasks* in one statement; their ids come in the order of *tasks*. All or nothing.

    Raises psycopg.DataError or psycopg.IntegrityError if one of them cannot be stored.
    """
    cursor = await conn.execute(
        ENQUEUE,
        {
            "names": [task.name for task in tasks],
            "types": [task.type for task in tasks],
            "payloads": [bytes(task.payload).decode() for task in tasks],
            "priorities": [task.priority.value for task in tasks],
            "max_attempts": [task.max_attempts for task in tasks],
            "scheduled_at": [task.scheduled_at for task in tasks],
        },
    )
    # Ids are drawn in the order of the rows, but RETURNING promises none.
    return sorted(id for (id,) in await cursor.fetchall())
