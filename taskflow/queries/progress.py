"""What attempts have told of themselves, and logged."""

from collections.abc import Sequence

import msgspec

from taskflow.database import Connection, array
from taskflow.model import KeptLines, Line

CHECKPOINTS = """
SELECT task_id, checkpoint::text
FROM taskflow.progress
WHERE task_id = ANY (%(ids)s::bigint[]) AND checkpoint IS NOT NULL
"""


async def find_checkpoints(conn: Connection, ids: Sequence[int]) -> dict[int, bytes]:
    """The checkpoints of those of *ids* that have one, as JSON."""
    rows = await (await conn.execute(CHECKPOINTS, {"ids": array(ids)})).fetchall()
    return {id: checkpoint.encode() for id, checkpoint in rows}


# The latest attempts, oldest first.
LINES = """
SELECT attempt, left_out, lines::text
FROM (
    SELECT attempt, left_out, lines
    FROM taskflow.lines
    WHERE task_id = %(id)s AND (%(attempt)s::integer IS NULL OR attempt = %(attempt)s)
    ORDER BY attempt DESC
    LIMIT 20
) AS latest
ORDER BY attempt
"""

_lines = msgspec.json.Decoder(list[Line])


async def find_lines(conn: Connection, id: int, attempt: int | None = None) -> list[KeptLines]:
    """What is kept of the logs of the task's latest 20 attempts, or of *attempt*."""
    rows = await (await conn.execute(LINES, {"id": id, "attempt": attempt})).fetchall()
    return [KeptLines(attempt, left_out, _lines.decode(lines)) for attempt, left_out, lines in rows]
