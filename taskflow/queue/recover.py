"""Recover: the operator re-queues old tasks by hand; the retry by hand of single tasks is its smaller form."""

from collections.abc import Sequence

from taskflow.database import Connection
from taskflow.model import Status

# A queued task stays where it is in its queue: it is marked as looked after, and idle workers are woken.
RECOVER_QUEUED = """
WITH old AS (
    SELECT id
    FROM taskflow.tasks
    WHERE status = 'queued' AND NOT held AND scheduled_at <= now()
      AND updated_at <= now() - make_interval(secs => %(past_seconds)s)
    ORDER BY priority, scheduled_at, id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), touched AS (
    UPDATE taskflow.tasks AS task
    SET updated_at = now()
    FROM old
    WHERE task.id = old.id
    RETURNING task.priority
)
SELECT priority::text, count(*), taskflow.wake(priority)
FROM touched
GROUP BY priority
"""

RECOVER_FAILED = """
SELECT count(*)
FROM taskflow.requeue(
    ARRAY(
        SELECT id
        FROM taskflow.tasks
        WHERE status = 'failed' AND updated_at <= now() - make_interval(secs => %(past_seconds)s)
        ORDER BY updated_at, id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ),
    'recovery')
"""

RECOVERABLE = (Status.QUEUED, Status.FAILED)


async def recover(conn: Connection, status: Status, past_seconds: int, limit: int) -> int:
    """Re-queue at most *limit* tasks that are *status* and unchanged for *past_seconds*; how many it were.

    A failed task becomes due at once with a fresh budget of attempts. A queued one that is due keeps its place; its
    workers are woken. Tasks that someone else is changing at this moment are passed over. Raises ValueError for any
    other status: running and succeeded tasks are not to be re-queued.
    """
    if status not in RECOVERABLE:
        raise ValueError(f"only queued and failed tasks can be recovered, not {status.value}")
    statement = RECOVER_QUEUED if status is Status.QUEUED else RECOVER_FAILED
    cursor = await conn.execute(statement, {"past_seconds": past_seconds, "limit": limit})
    rows = await cursor.fetchall()
    return sum(row[1] for row in rows) if status is Status.QUEUED else rows[0][0]


RETRY_BY_HAND = "SELECT id FROM taskflow.requeue(%(ids)s::bigint[], 'retry by hand') AS id"


async def retry_by_hand(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Queue the failed or cancelled tasks *ids* again with a fresh budget; others are left alone, and not answered."""
    cursor = await conn.execute(RETRY_BY_HAND, {"ids": list(ids)})
    return {id for (id,) in await cursor.fetchall()}
