"""Age: a task that has waited long comes before newer ones of higher priority."""

from taskflow.database import Connection

AGE = """
UPDATE taskflow.tasks AS task
SET priority = 'high', updated_at = now()
WHERE task.id = ANY (ARRAY(
        SELECT id
        FROM taskflow.tasks
        WHERE status = 'queued' AND NOT held AND priority IN ('normal', 'low')
          AND scheduled_at <= now() - make_interval(secs => %(seconds)s)
          AND id = ANY (ARRAY(
                SELECT old.id
                FROM unnest('{normal,low}'::taskflow.priority[]) AS lower (priority)
                CROSS JOIN LATERAL (
                    SELECT waiting.id
                    FROM taskflow.tasks AS waiting
                    WHERE waiting.status = 'queued' AND NOT waiting.held AND waiting.priority = lower.priority
                      AND waiting.scheduled_at <= now() - make_interval(secs => %(seconds)s)
                    ORDER BY waiting.scheduled_at, waiting.id
                    LIMIT 1000
                ) AS old))
        ORDER BY id
        FOR UPDATE SKIP LOCKED
    ))
"""


async def age(conn: Connection, seconds: float) -> int:
    """Raise at most 1,000 tasks of each lower priority that have been due for *seconds* to ``high``; how many it were.

    They keep their place in time: older than newer tasks of that priority.
    """
    return (await conn.execute(AGE, {"seconds": seconds})).rowcount
