"""Finish: a running attempt's outcome, fenced by id, attempt and worker.

An id that is missing from an answer lost its claim: another attempt runs or ran, and nothing was changed.

A task with a worker and without an end is running, as the table's constraints say. The statements ask for that, not
for the status: by status, the planner may walk all running tasks and look each up in the array of ids.
"""

from collections.abc import Sequence
from datetime import timedelta

from taskflow.database import Connection, array

SUCCEED = """
UPDATE taskflow.tasks
SET status = 'succeeded', finished_at = now(), updated_at = now(), error = NULL
WHERE id = ANY (%(ids)s::bigint[]) AND attempt = %(attempt)s
  AND worker_id = %(worker)s AND finished_at IS NULL
RETURNING id
"""


async def succeed(conn: Connection, worker: int, attempt: int, ids: Sequence[int]) -> set[int]:
    """Record *ids* as succeeded in *attempt*."""
    cursor = await conn.execute(SUCCEED, {"worker": worker, "attempt": attempt, "ids": array(ids)})
    return set(ids) if cursor.rowcount == len(ids) else {id for (id,) in await cursor.fetchall()}


# Each id's place in the array is looked up, for a join of the arrays takes three to ten times as long.
SUCCEED_WITH_RESULTS = """
UPDATE taskflow.tasks AS task
SET status = 'succeeded', finished_at = now(), updated_at = now(), error = NULL,
    result = %(results)s::jsonb -> (array_position(%(ids)s::bigint[], task.id) - 1)
WHERE task.id = ANY (%(ids)s::bigint[])
  AND task.attempt = (%(attempts)s::integer[])[array_position(%(ids)s::bigint[], task.id)]
  AND task.worker_id = %(worker)s AND task.finished_at IS NULL
RETURNING task.id
"""


async def succeed_with_results(
    conn: Connection, worker: int, ids: Sequence[int], attempts: Sequence[int], results: Sequence[str]
) -> set[int]:
    """Record *ids* as succeeded in *attempts* with their *results* (JSON)."""
    cursor = await conn.execute(
        SUCCEED_WITH_RESULTS,
        {"worker": worker, "ids": array(ids), "attempts": array(attempts), "results": f"[{','.join(results)}]"},
    )
    return {id for (id,) in await cursor.fetchall()}


# The array beside the join keeps the planner on the primary key whatever it makes of unnest.
FAIL = """
UPDATE taskflow.tasks AS task
SET status = 'failed', finished_at = now(), updated_at = now(), error = given.error
FROM unnest(%(ids)s::bigint[], %(attempts)s::integer[], %(errors)s::text[]) AS given (id, attempt, error)
WHERE task.id = ANY (%(ids)s::bigint[])
  AND task.id = given.id AND task.attempt = given.attempt
  AND task.worker_id = %(worker)s AND task.finished_at IS NULL
RETURNING task.id
"""


async def fail(
    conn: Connection, worker: int, ids: Sequence[int], attempts: Sequence[int], errors: Sequence[str]
) -> set[int]:
    """Record *ids* as failed for good in *attempts*, with their *errors*."""
    cursor = await conn.execute(
        FAIL, {"worker": worker, "ids": list(ids), "attempts": list(attempts), "errors": list(errors)}
    )
    return {id for (id,) in await cursor.fetchall()}


RETRY = """
WITH mine AS (
    SELECT task.id, task.attempt, task.started_at, given.error, given.delay
    FROM unnest(%(ids)s::bigint[], %(attempts)s::integer[], %(errors)s::text[], %(delays)s::interval[])
         AS given (id, attempt, error, delay)
    JOIN taskflow.tasks AS task ON task.id = given.id AND task.attempt = given.attempt
    WHERE task.id = ANY (%(ids)s::bigint[])
      AND task.worker_id = %(worker)s AND task.finished_at IS NULL
    ORDER BY task.id
    FOR UPDATE OF task
), requeued AS (
    UPDATE taskflow.tasks AS task
    SET status = 'queued', scheduled_at = now() + mine.delay, updated_at = now(), error = mine.error,
        worker_id = NULL, started_at = NULL
    FROM mine
    WHERE task.id = mine.id
)
INSERT INTO taskflow.attempts (task_id, attempt, worker_id, started_at, ended_at, outcome, error, reason)
SELECT id, attempt, %(worker)s, started_at, now(), 'failed', error, 'retry'
FROM mine
RETURNING task_id
"""


async def retry(
    conn: Connection,
    worker: int,
    ids: Sequence[int],
    attempts: Sequence[int],
    errors: Sequence[str],
    delays: Sequence[timedelta],
) -> set[int]:
    """Queue *ids* again after *delays*, for *attempts* failed with *errors*; the history keeps those."""
    cursor = await conn.execute(
        RETRY,
        {
            "worker": worker,
            "ids": list(ids),
            "attempts": list(attempts),
            "errors": list(errors),
            "delays": list(delays),
        },
    )
    return {id for (id,) in await cursor.fetchall()}


# A release does not count: max_attempts grows, since attempt, the fence, cannot shrink.
RELEASE = """
WITH mine AS (
    SELECT task.id, task.attempt, task.started_at, task.priority
    FROM unnest(%(ids)s::bigint[], %(attempts)s::integer[]) AS given (id, attempt)
    JOIN taskflow.tasks AS task ON task.id = given.id AND task.attempt = given.attempt
    WHERE task.id = ANY (%(ids)s::bigint[])
      AND task.worker_id = %(worker)s AND task.finished_at IS NULL
    ORDER BY task.id
    FOR UPDATE OF task
), requeued AS (
    UPDATE taskflow.tasks AS task
    SET status = 'queued', updated_at = now(), max_attempts = least(task.max_attempts::bigint + 1, 2147483647),
        worker_id = NULL, started_at = NULL
    FROM mine
    WHERE task.id = mine.id
), left_behind AS (
    INSERT INTO taskflow.attempts (task_id, attempt, worker_id, started_at, ended_at, outcome, reason)
    SELECT id, attempt, %(worker)s, started_at, now(), 'released', 'release'
    FROM mine
)
SELECT id, taskflow.wake(priority) FROM mine
"""


async def release(conn: Connection, worker: int, ids: Sequence[int], attempts: Sequence[int]) -> set[int]:
    """Queue *ids* again at their old place and without loss of an attempt: the worker stops before they ended."""
    cursor = await conn.execute(RELEASE, {"worker": worker, "ids": list(ids), "attempts": list(attempts)})
    return {id for (id, _) in await cursor.fetchall()}
