"""Rescue: the running tasks of workers that are gone, back to ``queued`` or, with no attempts left, ``failed``."""

from taskflow.database import Connection

# A worker that has stopped may have left running tasks behind: a claim of its that was under way when it was taken
# for gone. So stopped workers are looked at as well, for an hour.
GONE = """
UPDATE taskflow.workers AS worker
SET stopped_at = coalesce(worker.stopped_at, now())
WHERE worker.id = ANY (ARRAY(
        SELECT id
        FROM taskflow.workers
        WHERE (stopped_at IS NULL AND heartbeat_at < now() - make_interval(secs => %(lease)s))
           OR (stopped_at > now() - interval '1 hour'
               AND EXISTS (SELECT FROM taskflow.tasks AS task WHERE task.worker_id = workers.id AND status = 'running'))
        FOR UPDATE SKIP LOCKED
    ))
RETURNING worker.id, worker.name
"""


async def find_gone(conn: Connection, lease: float) -> dict[int, str]:
    """Workers, id to name, that are gone but may have running tasks: silent for *lease* seconds, or stopped.

    From now on they claim nothing, and their heartbeat tells them so.
    """
    return dict(await (await conn.execute(GONE, {"lease": lease})).fetchall())


RESCUE = """
WITH lost AS (
    SELECT task.id, task.attempt, task.worker_id, task.started_at, task.priority,
           task.attempt >= task.max_attempts AS exhausted,
           format('worker %%s (%%s, pid %%s) was lost in attempt %%s of %%s',
                  worker.name, worker.host, worker.pid, task.attempt, task.max_attempts) AS error
    FROM taskflow.tasks AS task
    JOIN taskflow.workers AS worker ON worker.id = task.worker_id
    WHERE task.worker_id = %(worker)s AND task.status = 'running'
    ORDER BY task.id
    LIMIT %(limit)s
    FOR UPDATE OF task SKIP LOCKED
), failed AS (
    UPDATE taskflow.tasks AS task
    SET status = 'failed', finished_at = now(), updated_at = now(), error = lost.error
    FROM lost
    WHERE task.id = lost.id AND lost.exhausted
), requeued AS (
    UPDATE taskflow.tasks AS task
    SET status = 'queued', scheduled_at = now(), updated_at = now(), error = lost.error,
        worker_id = NULL, started_at = NULL
    FROM lost
    WHERE task.id = lost.id AND NOT lost.exhausted
), left_behind AS (
    INSERT INTO taskflow.attempts (task_id, attempt, worker_id, started_at, ended_at, outcome, error, reason)
    SELECT id, attempt, worker_id, started_at, now(), 'lost', error, 'rescue'
    FROM lost
    WHERE NOT exhausted
)
SELECT lost.priority, count(*), CASE WHEN NOT bool_and(exhausted) THEN taskflow.wake(lost.priority) END
FROM lost
GROUP BY lost.priority
"""


async def rescue(conn: Connection, worker: int, limit: int = 1000) -> int:
    """Put back at most *limit* running tasks of *worker*, which must be gone; how many it were."""
    cursor = await conn.execute(RESCUE, {"worker": worker, "limit": limit})
    return sum(row[1] for row in await cursor.fetchall())
