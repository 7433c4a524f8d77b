"""Cancel: a queued or running task becomes ``cancelled``."""

from collections.abc import Sequence

from taskflow.database import Connection

CANCEL = """
WITH live AS (
    SELECT id FROM taskflow.tasks
    WHERE id = ANY (%(ids)s::bigint[]) AND status IN ('queued', 'running')
    ORDER BY id
    FOR UPDATE
)
UPDATE taskflow.tasks AS task
SET status = 'cancelled', finished_at = now(), updated_at = now(), error = %(reason)s
FROM live
WHERE task.id = live.id
RETURNING task.id
"""


async def cancel(conn: Connection, ids: Sequence[int], reason: str | None = None) -> set[int]:
    """Cancel *ids*; those missing from the answer were final already. A running attempt's later outcome is dropped."""
    cursor = await conn.execute(CANCEL, {"ids": list(ids), "reason": reason})
    return {id for (id,) in await cursor.fetchall()}
