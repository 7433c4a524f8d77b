"""Tell: how far a running attempt is, and where the next one can go on."""

from collections.abc import Sequence

from taskflow.database import Connection, array
from taskflow.model import Note

# The task is locked against being deleted, not against being finished.
TELL = """
WITH mine AS (
    SELECT given.*
    FROM unnest(%(ids)s::bigint[], %(attempts)s::integer[], %(fractions)s::double precision[], %(messages)s::text[],
                %(checkpoints)s::text[]) AS given (id, attempt, fraction, message, checkpoint)
    JOIN taskflow.tasks AS task ON task.id = given.id AND task.attempt = given.attempt
    WHERE task.id = ANY (%(ids)s::bigint[]) AND task.worker_id = %(worker)s
    ORDER BY task.id
    FOR KEY SHARE OF task
)
INSERT INTO taskflow.progress AS progress (task_id, attempt, fraction, message, checkpoint)
SELECT id, attempt, fraction, message, checkpoint::jsonb
FROM mine
ON CONFLICT (task_id) DO UPDATE
SET attempt = excluded.attempt, updated_at = now(),
    fraction = coalesce(excluded.fraction, progress.fraction),
    message = CASE WHEN excluded.fraction IS NULL THEN progress.message ELSE excluded.message END,
    checkpoint = coalesce(excluded.checkpoint, progress.checkpoint)
WHERE progress.attempt <= excluded.attempt
RETURNING task_id
"""


async def tell_progress(conn: Connection, worker: int, notes: Sequence[Note]) -> set[int]:
    """Keep *notes*, one a task; what is not told keeps its value.

    Tasks that are missing from the answer are in another attempt than *worker* thinks: nothing was changed.
    """
    cursor = await conn.execute(
        TELL,
        {
            "worker": worker,
            "ids": array([note.id for note in notes]),
            "attempts": array([note.attempt for note in notes]),
            "fractions": [note.fraction for note in notes],
            "messages": [note.message for note in notes],
            "checkpoints": [None if note.checkpoint is None else note.checkpoint.decode() for note in notes],
        },
    )
    return {id for (id,) in await cursor.fetchall()}
