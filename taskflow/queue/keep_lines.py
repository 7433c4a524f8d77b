"""Keep: the last lines that attempts have logged."""

from collections.abc import Sequence

import msgspec

from taskflow.database import Connection, array
from taskflow.model import KeptLines

# The task is locked against being deleted, not against being finished.
KEEP = """
WITH mine AS (
    SELECT given.*
    FROM unnest(%(ids)s::bigint[], %(attempts)s::integer[], %(left_out)s::integer[], %(lines)s::text[])
         AS given (id, attempt, left_out, lines)
    JOIN taskflow.tasks AS task ON task.id = given.id AND task.attempt = given.attempt
    WHERE task.id = ANY (%(ids)s::bigint[]) AND task.worker_id = %(worker)s
    ORDER BY task.id
    FOR KEY SHARE OF task
)
INSERT INTO taskflow.lines (task_id, attempt, left_out, lines)
SELECT id, attempt, left_out, lines::jsonb FROM mine
ON CONFLICT DO NOTHING
"""


async def keep_lines(conn: Connection, worker: int, kept: Sequence[tuple[int, KeptLines]]) -> None:
    """Keep the lines of attempts, by the ids of their tasks, once; *worker*'s only, until their end is recorded."""
    await conn.execute(
        KEEP,
        {
            "worker": worker,
            "ids": array([id for id, _ in kept]),
            "attempts": array([lines.attempt for _, lines in kept]),
            "left_out": array([lines.left_out for _, lines in kept]),
            "lines": [msgspec.json.encode(lines.lines).decode() for _, lines in kept],
        },
    )
