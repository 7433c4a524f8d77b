"""Run now: a queued task that is due later becomes due at once."""

from collections.abc import Sequence

from taskflow.database import Connection

RUN_NOW = """
WITH later AS (
    SELECT id, priority
    FROM taskflow.tasks
    WHERE id = ANY (%(ids)s::bigint[]) AND status = 'queued' AND scheduled_at > now()
    ORDER BY id
    FOR UPDATE
), moved AS (
    UPDATE taskflow.tasks AS task
    SET scheduled_at = now(), updated_at = now()
    FROM later
    WHERE task.id = later.id
    RETURNING task.id, task.priority
), at_gates AS (
    UPDATE taskflow.holds AS hold
    SET scheduled_at = now()
    FROM later
    WHERE hold.task_id = later.id AND hold.position >= 2
), woken AS MATERIALIZED (
    SELECT taskflow.wake(priority) FROM (SELECT DISTINCT priority FROM moved) AS priorities
)
SELECT id FROM moved WHERE (SELECT count(*) FROM woken) > 0
"""


async def run_now(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Let the queued tasks *ids* be due now; those that are due already, or not queued, are not answered.

    What its gates hold still waits for them.
    """
    cursor = await conn.execute(RUN_NOW, {"ids": list(ids)})
    return {id for (id,) in await cursor.fetchall()}
